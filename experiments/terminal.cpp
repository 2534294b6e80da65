#include "experiments/terminal.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <new>

#include "models/error.hpp"

namespace pipemoe::program {
namespace {

double gibibytes(Bytes bytes) { return bytes.amount() / (1 << 30); }

char initial(Step step) {
  switch (step) {
    case Step::Gate:
      return 'G';
    case Step::Permute:
      return 'P';
    case Step::Dispatch:
      return 'D';
    case Step::Expert:
      return 'E';
    case Step::ExpertInputGradient:
      return 'I';
    case Step::ExpertWeightGradient:
      return 'W';
    case Step::Combine:
      return 'C';
    case Step::Unpermute:
      return 'U';
  }
  throw std::logic_error("pipemoe bug: unknown step");
}

class Lane {
 public:
  explicit Lane(std::size_t width) : cells_(width, "·") {}

  // A label first, then a bar: neighbours stay apart without a gap that would not be true.
  void draw(const Span& span, std::size_t from, std::size_t to) {
    const std::string label = initial(span.task.step) + std::to_string(span.task.chunk);
    for (std::size_t cell = from; cell < to; ++cell) {
      const std::size_t letter = cell - from;
      const bool fits = label.size() < to - from || letter == 0;
      cells_[cell] = fits && letter < label.size() ? std::string(1, label[letter]) : "━";
    }
  }
  std::string text() const { return fmt::format("{}", fmt::join(cells_, "")); }

 private:
  std::vector<std::string> cells_;
};

}  // namespace

std::string wrapped(const std::string& text, std::size_t indent, std::size_t columns) {
  std::string out;
  std::size_t line = 0;  // where the current one began
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = std::min(text.find(' ', at + 1), text.size());
    if (out.size() + (end - at) - line > columns && out.size() > line + indent) {
      out += "\n" + std::string(indent, ' ');
      line = out.size() - indent;
      at += text[at] == ' ' ? 1 : 0;
    }
    out += text.substr(at, end - at);
    at = end;
  }
  return out;
}

void print_line(const std::string& text, std::size_t indent) {
  const bool on_terminal = isatty(STDOUT_FILENO) != 0;
  fmt::print("{}\n", on_terminal ? wrapped(text, indent, terminal_columns()) : text);
}

void print_error(const std::string& text) noexcept {
  try {
    const std::string line = printable(text) + "\n";
    std::fputs(line.c_str(), stderr);
    std::fflush(stderr);
  } catch (const std::bad_alloc&) {
    std::fputs("pipemoe: out of memory\n", stderr);
  }
}

void print_layer(const MoeLayer& layer) {
  print_line(
      fmt::format(
          "layer    {}: {} tokens a rank, M {}, H {}, {} experts, top-{}, capacity {}, {}, {}",
          layer.name, layer.tokens_per_rank, layer.model_dim, layer.hidden_dim, layer.num_experts,
          layer.top_k,
          layer.capacity_factor ? fmt::format("{:g}", *layer.capacity_factor) : "dropless",
          to_string(layer.dtype), to_string(layer.activation)),
      9);
}

void print_heading(const MoeLayer& layer, const Cluster& cluster) {
  print_layer(layer);
  fmt::print("cluster  {}: {} nodes x {} {}\n", cluster.name, cluster.nodes, cluster.gpus_per_node,
             cluster.gpu.name);
  const Bytes needed = layer.memory_per_rank(cluster.num_ranks());
  const Bytes usable = cluster.gpu.usable_memory;
  fmt::print("memory   {:.2f} of {:.2f} GiB usable on each GPU{}\n", gibibytes(needed),
             gibibytes(usable), needed > usable ? ": DOES NOT FIT" : "");
}

void print_basis(const BasisShares& shares) {
  const std::string text = to_string(shares);
  if (!text.empty()) print_line("  rests on costs that are " + text, 4);
}

void print_notes(const std::vector<std::string>& notes) {
  for (const std::string& note : notes) print_line("  note: " + note, 8);
}

namespace {

std::size_t column_of(Seconds time, const Timeline& timeline, std::size_t width) {
  return static_cast<std::size_t>(
      std::lround(time / timeline.makespan() * static_cast<double>(width)));
}

// Where each pass begins, and the makespan at the right where there is room.
std::string pass_line(const Timeline& timeline, std::size_t width) {
  std::string line = "|forward";
  if (timeline.backward() > Seconds{}) {
    line.resize(std::max(line.size() + 1, column_of(timeline.forward(), timeline, width)), ' ');
    line += "|backward";
  }
  const std::string end = fmt::format("{:.3f} ms|", milliseconds(timeline.makespan()));
  if (line.size() + end.size() < width)
    line += std::string(width - line.size() - end.size(), ' ') + end;
  return line;
}

}  // namespace

std::string draw_timeline(const Timeline& timeline, std::size_t columns) {
  constexpr std::size_t kLabel = 14;
  if (timeline.makespan() <= Seconds{} || columns < kLabel + 30) return "";
  const std::size_t width = columns - kLabel - 2;
  std::string text;
  for (std::size_t queue = 0; queue < timeline.queues.size(); ++queue) {
    Lane lane(width);
    bool used = false;
    for (const Span& span : timeline.spans) {
      if (span.queue != queue || span.rank != 0) continue;
      lane.draw(span, column_of(span.start, timeline, width), column_of(span.end, timeline, width));
      used = true;
    }
    if (used) text += fmt::format("  {:<{}}{}\n", timeline.queues[queue].name, kLabel, lane.text());
  }
  return text + fmt::format("  {:<{}}{}\n", "", kLabel, pass_line(timeline, width));
}

std::size_t terminal_columns() {
  winsize size{};
  if (isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    return size.ws_col;
  }
  return 100;
}

Progress::Progress(std::string what)
    : what_(std::move(what)),
      next_draw_(start_ + std::chrono::seconds(2)),
      on_terminal_(isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() {
  if (drawn_) fmt::print(stderr, "\r\033[K");
}

void Progress::update(std::size_t done, std::size_t total) {
  if (!on_terminal_ || done == 0) return;
  const auto now = Clock::now();
  if (now < next_draw_) return;
  next_draw_ = now + std::chrono::milliseconds(100);
  drawn_ = true;
  const double share = static_cast<double>(done) / static_cast<double>(total);
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  constexpr std::size_t kWidth = 30;
  const auto filled = static_cast<std::size_t>(share * kWidth);
  fmt::print(stderr, "\r\033[K{} [{:#<{}}{: <{}}] {:3.0f} %, {:.0f} s left", what_, "", filled, "",
             kWidth - filled, 100 * share, elapsed * (1 - share) / share);
  std::fflush(stderr);
}

}  // namespace pipemoe::program
