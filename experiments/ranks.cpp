#include "experiments/ranks.hpp"

#include <fmt/core.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "experiments/terminal.hpp"
#include "models/error.hpp"

namespace pipemoe::program {
namespace {

using Json = nlohmann::ordered_json;

bool joined = false;  // on_ranks was called

/// What all ranks know to be refused.
struct Agreed : InputError {
  using InputError::InputError;
};

// A rank's answer as one text: 'e' and an error, or 'c' and a configuration.
std::string answer(const std::function<std::string()>& read) {
  try {
    return fmt::format("c{}", read());
  } catch (const InputError& error) {
    return fmt::format("e{}", error.what());
  }
}

// The first value that differs: "layer/model_dim is 256, on rank 0 it is 128".
std::optional<std::string> difference(const std::string& mine, const std::string& first) {
  const Json here = Json::parse(mine), there = Json::parse(first);
  const Json differences = Json::diff(there, here);
  if (differences.empty()) return std::nullopt;  // 1 and 1.0 are one value
  const std::string path = differences.front()["path"];
  const Json::json_pointer at(path);
  const auto value = [&](const Json& json) {
    return json.contains(at) ? json.at(at).dump() : std::string("not set");
  };
  return fmt::format("{} is {}, on rank 0 it is {}", path.substr(1), value(here), value(there));
}

struct Complaint {
  std::size_t rank;
  std::string text;
};

std::optional<Complaint> complaint(const std::vector<std::string>& answers) {
  bool all_fail = true;
  std::optional<Complaint> first;
  for (std::size_t rank = 0; rank < answers.size(); ++rank) {
    const bool fails = answers[rank][0] == 'e';
    all_fail &= fails;
    if (fails && !first) first = {rank, answers[rank].substr(1)};
  }
  if (first) {
    if (!all_fail) first->text = fmt::format("rank {}: {}", first->rank, first->text);
    return first;
  }
  for (std::size_t rank = 1; rank < answers.size(); ++rank) {
    const auto differs = difference(answers[rank].substr(1), answers[0].substr(1));
    if (!differs) continue;
    return Complaint{
        rank, fmt::format("rank {} was started with another configuration: {}", rank, *differs)};
  }
  return std::nullopt;
}

}  // namespace

void on_ranks(const std::function<void(exec::ProcessGroup&)>& work) {
  joined = true;
  const auto group = exec::join_ranks();
  const auto end_all = [&](int exit_code, const char* why) {
    if (group->size() == 1) throw;
    print_error(fmt::format("pipemoe: rank {}: {}", group->rank(), why));
    group->abort(exit_code);
  };
  try {
    work(*group);
  } catch (const Agreed&) {
    throw;
  } catch (const InputError& error) {
    end_all(2, error.what());
  } catch (const std::exception& error) {
    end_all(1, error.what());
  }
}

void agree(exec::ProcessGroup& group, const std::function<std::string()>& read) {
  const auto found = complaint(exec::all_gather(group, answer(read)));
  if (!found) return;
  if (static_cast<std::size_t>(group.rank()) == found->rank) throw Agreed(found->text);
  throw SilentExit{2};
}

void refuse(const std::string& why) {
  if (!joined && exec::started_by_launcher() && exec::built_with_mpi()) {
    on_ranks([&](exec::ProcessGroup& group) {
      agree(group, [&]() -> std::string { throw InputError(why); });
    });
  }
  throw InputError(why);
}

}  // namespace pipemoe::program
