#include "exec/communicator.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "models/error.hpp"
#include "models/limits.hpp"

namespace pipemoe::exec {
namespace {

std::int64_t total(std::span<const std::int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

class CopyCommunicator final : public Communicator {
 public:
  void exchange(const Exchange& exchange, std::stop_token) override {
    ensure(exchange.send.size() == exchange.receive.size(), "copy: sizes differ");
    std::copy(exchange.send.begin(), exchange.send.end(), exchange.receive.begin());
  }
};

class EmulatedLink final : public Communicator {
 public:
  EmulatedLink(Link link, std::unique_ptr<Communicator> real)
      : link_(link), real_(std::move(real)) {}

  void exchange(const Exchange& exchange, std::stop_token stop) override {
    const auto start = Clock::now();
    real_->exchange(exchange, stop);
    const std::int64_t floats =
        std::max(total(exchange.send_counts), total(exchange.receive_counts));
    wait(start, link_(Bytes{floats * static_cast<std::int64_t>(sizeof(float))}), stop);
  }

 private:
  using Clock = std::chrono::steady_clock;

  // Waits until `time` after `start`, and looks at `stop` now and then.
  static void wait(Clock::time_point start, Seconds time, const std::stop_token& stop) {
    constexpr Seconds kLook{20e-3};
    for (Seconds passed{}; passed < time; passed = Clock::now() - start) {
      if (stop.stop_requested()) throw RunError("exchange stopped");
      const Seconds next = std::min(passed + kLook, time);
      std::this_thread::sleep_until(start + std::chrono::ceil<Clock::duration>(next));
    }
  }

  Link link_;
  std::unique_ptr<Communicator> real_;
};

// The number at the start of `text`, and the rest of it.
std::optional<std::pair<double, std::string_view>> leading_number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || !std::isfinite(value) || value < 0) return std::nullopt;
  return std::pair{value, text.substr(static_cast<std::size_t>(end - text.data()))};
}

std::optional<Seconds> parse_time(std::string_view text) {
  static const std::map<std::string_view, double> kUnits{{"s", 1}, {"ms", 1e-3}, {"us", 1e-6}};
  const auto number = leading_number(text);
  if (!number) return std::nullopt;
  const auto unit = kUnits.find(number->second);
  if (unit == kUnits.end()) return std::nullopt;
  return Seconds{number->first * unit->second};
}

std::optional<double> parse_number(std::string_view text) {
  const auto number = leading_number(text);
  if (!number || !number->second.empty()) return std::nullopt;
  return number->first;
}

}  // namespace

std::unique_ptr<Communicator> copy_communicator() { return std::make_unique<CopyCommunicator>(); }

Link parse_link(const std::string& text) {
  constexpr std::string_view kAlpha = "alpha=", kBeta = ",beta=";
  const auto fail = [&] {
    return InputError(fmt::format(
        "--link {}: must be alpha=TIME,beta=SECONDS_PER_BYTE, for example alpha=1ms,beta=1e-9",
        text));
  };
  const std::string_view view = text;
  const auto comma = view.find(kBeta);
  if (!view.starts_with(kAlpha) || comma == std::string_view::npos) throw fail();
  const auto alpha = parse_time(view.substr(kAlpha.size(), comma - kAlpha.size()));
  const auto beta = parse_number(view.substr(comma + kBeta.size()));
  if (!alpha || !beta) throw fail();
  if (alpha->count() > kMostStartup || *beta > kMostSecondsPerByte) {
    throw InputError(
        fmt::format("--link {}: alpha must be at most {:g} s, beta at most {:g}: for example "
                    "alpha=1ms,beta=1e-9",
                    text, kMostStartup, kMostSecondsPerByte));
  }
  return {*alpha, {*beta}};
}

std::string to_string(const Link& link) {
  return fmt::format("alpha {:g} ms, beta {:g} s/byte ({:.4g} GB/s)", link.alpha.count() * 1e3,
                     link.beta.value, 1e-9 / link.beta.value);
}

std::unique_ptr<Communicator> emulate_link(Link link, std::unique_ptr<Communicator> real) {
  return std::make_unique<EmulatedLink>(link, std::move(real));
}

}  // namespace pipemoe::exec
