// Files that go in and come out: configurations (models/config.hpp) and whole files
// (models/files.hpp).
#include "models/files.hpp"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <thread>

#include "models/config.hpp"
#include "models/error.hpp"
#include "models/json_reader.hpp"
#include "tests/support/program.hpp"

namespace pipemoe::files_test {

using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;
using Catch::Matchers::Equals;
using Catch::Matchers::StartsWith;

namespace {

ConfigFile document(std::string_view text, std::vector<Override> overrides = {}) {
  return ConfigFile::parse(text, "some.toml", "layer", std::move(overrides));
}

// `x` of a document that holds nothing else.
std::int64_t integer(const std::string& value, std::int64_t from, std::int64_t to) {
  const ConfigFile file = document("x = " + value);
  return file.root().integer("x", from, to);
}

double number(const std::string& value, NumberRange range = {}) {
  const ConfigFile file = document("x = " + value);
  return file.root().number("x", range);
}

// `x` of a document where an override gives it.
std::string overridden_text(const std::string& value) {
  const ConfigFile file = document("x = 'from the file'", {{"x", value}});
  return file.root().text("x");
}

std::size_t entries(const std::filesystem::path& directory) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& one : std::filesystem::directory_iterator(directory)) ++count;
  return count;
}

}  // namespace

TEST_CASE("broken TOML names its file and line", "[models][config]") {
  CHECK_THROWS_WITH(document("a = 1\nb = \n"), StartsWith("some.toml:2: "));
  CHECK_THROWS_AS(document("a = 1\na = 2\n"), InputError);
  CHECK_THROWS_WITH(document("a = 1\n\n\na = 2\n"), StartsWith("some.toml:4: "));
}

TEST_CASE("a file that is not there names itself and its kind", "[models][config]") {
  CHECK_THROWS_WITH(ConfigFile::load("/no/such.toml", "layer"),
                    Equals("/no/such.toml: cannot read this layer file: No such file or "
                           "directory"));
}

TEST_CASE("a loaded file is named by its path", "[models][config]") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("a.toml", "x = 3\n");
  const ConfigFile file = ConfigFile::load(path, "layer");
  CHECK(file.root().integer("x", 0, 9) == 3);
  CHECK(file.origin("x") == path);
}

TEST_CASE("a key that nothing reads is refused, the known ones named", "[models][config]") {
  const ConfigFile file = document("x = 1\ntypo = 2\n");
  ConfigTable root = file.root();
  root.integer("x", 0, 9);
  root.has("optional");
  CHECK_THROWS_WITH(root.finish(),
                    Equals("some.toml: typo is an unknown key (known: optional, x)"));
  root.has("typo");
  CHECK_NOTHROW(root.finish());
}

TEST_CASE("a missing key is named with its table", "[models][config]") {
  const ConfigFile file = document("[outer.inner]\n");
  ConfigTable inner = file.root().table("outer").table("inner");
  CHECK_THROWS_WITH(inner.text("x"), Equals("some.toml: outer.inner.x is missing"));
}

TEST_CASE("an integer must be one, and in range", "[models][config]") {
  CHECK(integer("1", 1, 8) == 1);
  CHECK(integer("8", 1, 8) == 8);
  CHECK_THROWS_WITH(integer("9", 1, 8), Equals("some.toml: x is 9, must be 1..8"));
  CHECK_THROWS_WITH(integer("0", 1, 8), Equals("some.toml: x is 0, must be 1..8"));
  CHECK_THROWS_WITH(integer("-3", 1, 8), Equals("some.toml: x is -3, must be 1..8"));
  CHECK_THROWS_WITH(integer("9223372036854775807", 1, 8),
                    Equals("some.toml: x is 9223372036854775807, must be 1..8"));
  for (const char* wrong : {"1.0", "'1'", "true", "[1]", "nan", "2024-01-01"}) {
    CAPTURE(wrong);
    CHECK_THROWS_WITH(integer(wrong, 1, 8), Contains("must be an integer"));
  }
  CHECK_THROWS_WITH(integer("9223372036854775808", 1, 8), StartsWith("some.toml:1: "));
}

TEST_CASE("a number must be finite and in range", "[models][config]") {
  CHECK(number("0") == 0);
  CHECK(number("2.5e-10") == 2.5e-10);
  CHECK_THROWS_WITH(number("-1e-300"), Contains("must be at least 0"));
  CHECK_THROWS_WITH(number("0", {.above = true}), Equals("some.toml: x is 0, must be above 0"));
  CHECK_THROWS_WITH(number("-0.0", {.above = true}), Contains("must be above 0"));
  CHECK(number("1e-300", {.above = true}) == 1e-300);
  CHECK(number("1", {0, 1, true}) == 1);
  CHECK_THROWS_WITH(number("1.5", {0, 1, true}),
                    Equals("some.toml: x is 1.5, must be above 0 and at most 1"));
  for (const char* endless : {"nan", "-nan", "inf", "-inf"}) {
    CAPTURE(endless);
    CHECK_THROWS_AS(number(endless), InputError);
  }
  for (const char* wrong : {"'1'", "true", "[1.0]"}) {
    CAPTURE(wrong);
    CHECK_THROWS_WITH(number(wrong), Contains("must be a number"));
  }
}

TEST_CASE("texts and lists must have the right type", "[models][config]") {
  const ConfigFile file =
      document("n = 1\nt = 'a'\nts = ['a', 'b']\nns = [1, 2.5]\nmixed = ['a', 1]\nbad = [1, nan]");
  ConfigTable root = file.root();
  CHECK(root.text("t") == "a");
  CHECK(root.texts("ts") == std::vector<std::string>{"a", "b"});
  CHECK(root.numbers("ns") == std::vector<double>{1, 2.5});
  CHECK_THROWS_WITH(root.text("n"), Equals("some.toml: n is 1, must be text"));
  CHECK_THROWS_AS(root.texts("t"), InputError);
  CHECK_THROWS_WITH(root.texts("mixed"), Contains("holds 1, must hold texts"));
  CHECK_THROWS_AS(root.numbers("n"), InputError);
  CHECK_THROWS_WITH(root.numbers("mixed"), Contains("must hold finite numbers"));
  CHECK_THROWS_WITH(root.numbers("bad"), Contains("holds nan"));
  CHECK_THROWS_WITH(root.table("t"), Equals("some.toml: t must be a table"));
}

TEST_CASE("an override replaces, adds and nests", "[models][config]") {
  const ConfigFile file =
      document("x = 1\n[a]\ny = 2\n", {{"x", "10"}, {"a.y", "20"}, {"a.b.z", "30"}});
  ConfigTable root = file.root();
  CHECK(root.integer("x", 0, 99) == 10);
  CHECK(root.table("a").integer("y", 0, 99) == 20);
  CHECK(root.table("a").table("b").integer("z", 0, 99) == 30);
}

TEST_CASE("the last of two overrides counts", "[models][config]") {
  const ConfigFile file = document("x = 1", {{"x", "2"}, {"x", "3"}});
  CHECK(file.root().integer("x", 0, 9) == 3);
  CHECK(file.origin("x") == "--set layer.x=3");
}

TEST_CASE("an override's bare words are text", "[models][config]") {
  CHECK(overridden_text("bf16") == "bf16");
  CHECK(overridden_text("\"quoted\"") == "quoted");
  CHECK(overridden_text("two words") == "two words");
  CHECK(overridden_text("") == "");
}

TEST_CASE("an override sets one key, whatever its text holds", "[models][config]") {
  // Appended to "value = ", this is TOML of two keys.
  CHECK_THROWS_AS(document("x = 1", {{"x", "2\ny = 3"}}), InputError);
  CHECK(document("x = 1", {{"x", "2, y = 3"}}).root().text("x") == "2, y = 3");
}

TEST_CASE("a fault in an override names the override", "[models][config]") {
  const ConfigFile file = document("x = 1\n[a]\n", {{"x", "9"}, {"typo", "1"}, {"a.y", "no"}});
  ConfigTable root = file.root();
  CHECK_THROWS_WITH(root.integer("x", 1, 8), Equals("--set layer.x=9: x is 9, must be 1..8"));
  CHECK_THROWS_WITH(root.table("a").integer("y", 0, 9),
                    Equals("--set layer.a.y=no: a.y is 'no', must be an integer"));
  CHECK_THROWS_WITH(root.finish(), StartsWith("--set layer.typo=1: typo is an unknown key"));
}

TEST_CASE("an override needs a key that is not below a value", "[models][config]") {
  CHECK_THROWS_WITH(document("x = 1", {{"x.y", "2"}}),
                    Equals("--set layer.x.y=2: x is not a table"));
  CHECK_THROWS_WITH(document("x = 1", {{"", "2"}}), Contains("no key given"));
}

TEST_CASE("an override with an empty part in its key is refused", "[models][config]") {
  for (const char* key : {".", ".x", "x.", "a..b"}) {
    CAPTURE(key);
    const auto read = [&] {
      const ConfigFile file = document("x = 1", {{key, "2"}});
      ConfigTable root = file.root();
      root.integer("x", 0, 9);
      root.finish();
    };
    CHECK_THROWS_AS(read(), InputError);
  }
}

TEST_CASE("the JSON of a document holds its overrides", "[models][config]") {
  const std::string json = document("x = 1", {{"x", "7"}}).to_json();
  CHECK_THAT(json, Contains("7") && !Contains("1"));
}

TEST_CASE("a document tells which keys were overridden", "[models][config]") {
  ConfigFile file = document("x = 1\ny = 2", {{"x", "3"}});
  CHECK(file.overrides("x"));
  CHECK_FALSE(file.overrides("y"));
  CHECK(file.origin("y") == "some.toml");
  file.erase("y");
  CHECK(file.root().keys() == std::vector<std::string>{"x"});
}

TEST_CASE("a file that was written reads the same", "[models][files]") {
  const TemporaryDirectory directory;
  std::string bytes("line\r\n\0after zero\n", 18);
  for (int byte = 0; byte < 256; ++byte) bytes.push_back(static_cast<char>(byte));
  write_file(directory.path("f"), bytes);
  CHECK(read_file(directory.path("f"), "file") == bytes);
  write_file(directory.path("empty"), "");
  CHECK(read_file(directory.path("empty"), "file").empty());
}

TEST_CASE("writing replaces a file and leaves nothing beside it", "[models][files]") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("f", "a longer text than the new one");
  write_file(path, "new");
  CHECK(read_file(path, "file") == "new");
  CHECK(entries(directory.path("")) == 1);
}

TEST_CASE("writing replaces atomically: who has the old file open keeps it whole",
          "[models][files]") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("f", "old");
  std::ifstream open_before(path);
  write_file(path, "new");
  std::string word;
  open_before >> word;
  CHECK(word == "old");
}

TEST_CASE("a path that cannot be written is an InputError", "[models][files]") {
  const TemporaryDirectory directory;
  const std::string path = directory.path("absent/f");
  CHECK_THROWS_AS(write_file(path, "text"), InputError);
  CHECK_THROWS_WITH(write_file(path, "text"),
                    Equals(path + ": cannot write: No such file or directory"));
  CHECK(directory.is_empty());
}

TEST_CASE("a failed write leaves neither the temporary file nor the target changed",
          "[models][files]") {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory.path("d"));
  CHECK_THROWS_WITH(write_file(directory.path("d"), "text"),
                    StartsWith(directory.path("d").string() + ": cannot write: "));
  CHECK(std::filesystem::is_directory(directory.path("d")));
  CHECK(entries(directory.path("")) == 1);
}

TEST_CASE("writing follows symbolic links", "[models][files]") {
  const TemporaryDirectory directory;
  const std::string target = directory.file("target", "old");
  std::filesystem::create_symlink("target", directory.path("link"));
  std::filesystem::create_symlink(directory.path("link"), directory.path("second"));
  write_file(directory.path("second"), "new");
  CHECK(std::filesystem::is_symlink(directory.path("link")));
  CHECK(std::filesystem::is_symlink(directory.path("second")));
  CHECK(read_file(target, "file") == "new");
  std::filesystem::create_symlink("not there yet", directory.path("dangling"));
  write_file(directory.path("dangling"), "made");
  CHECK(read_file(directory.path("not there yet"), "file") == "made");
  CHECK(entries(directory.path("")) == 5);
}

TEST_CASE("writing keeps a file's mode", "[models][files]") {
  using std::filesystem::perms;
  const TemporaryDirectory directory;
  const std::string path = directory.file("f", "old");
  std::filesystem::permissions(path, perms::owner_read | perms::owner_write);
  write_file(path, "new");
  CHECK(std::filesystem::status(path).permissions() == (perms::owner_read | perms::owner_write));
  write_file(directory.path("fresh"), "new");
  const mode_t mask = umask(0);
  umask(mask);
  CHECK(std::filesystem::status(directory.path("fresh")).permissions() ==
        static_cast<perms>(0666 & ~mask));
}

TEST_CASE("writing keeps hard links together", "[models][files]") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("f", "a longer text than the new one");
  std::filesystem::create_hard_link(path, directory.path("other"));
  write_file(path, "new");
  CHECK(std::filesystem::hard_link_count(path) == 2);
  CHECK(read_file(directory.path("other"), "file") == "new");
}

TEST_CASE("writing goes into a FIFO, which stays one", "[models][files]") {
  const TemporaryDirectory directory;
  const std::string path = directory.path("fifo");
  REQUIRE(mkfifo(path.c_str(), 0600) == 0);
  std::string read;
  std::thread reader([&] { read = read_file(path, "FIFO"); });
  write_file(path, "through");
  reader.join();
  CHECK(read == "through");
  CHECK(std::filesystem::is_fifo(path));
}

TEST_CASE("a full device is an error that says so", "[models][files]") {
  const TemporaryDirectory directory;
  std::filesystem::create_symlink("/dev/full", directory.path("full"));  // never replaced
  CHECK_THROWS_WITH(write_file(directory.path("full"), "text"),
                    EndsWith(": cannot write: No space left on device"));
  CHECK(std::filesystem::is_symlink(directory.path("full")));
}

TEST_CASE("outputs are no inputs, no folders and no other outputs", "[models][files]") {
  const TemporaryDirectory directory;
  const std::string in = directory.file("in", "text");
  std::filesystem::create_symlink("in", directory.path("link"));
  const auto check = [&](const std::string& a, const std::string& b) {
    check_outputs({{"--layer", in}}, {{"--output", a}, {"--csv", b}});
  };
  const std::string out = directory.path("out"), other = directory.path("other");
  CHECK_NOTHROW(check(out, other));
  CHECK_NOTHROW(check(out, ""));
  CHECK_NOTHROW(check("/dev/null", "/dev/null"));
  CHECK_THROWS_WITH(check(in, ""), Contains("is the same file as that of --layer"));
  CHECK_THROWS_WITH(check(out, directory.path("link")), Contains("--csv") && Contains("--layer"));
  CHECK_THROWS_WITH(check(out, directory.path("./out")), Contains("as that of --output"));
  CHECK_THROWS_WITH(check(directory.path(""), out), Contains("it is a folder"));
  CHECK_THROWS_WITH(check(directory.path("absent/f"), ""), Contains("does not exist"));
  CHECK_THROWS_WITH(check(out + "/f", ""), Contains("does not exist"));
  CHECK_THROWS_WITH(check(in + "/f", ""), Contains("Not a directory"));
  CHECK_THROWS_WITH(check(out, directory.path(std::string(300, 'x'))), Contains("name too long"));
}

TEST_CASE("a link that leads to itself is no output", "[models][files]") {
  const TemporaryDirectory directory;
  const std::string loop = directory.path("loop");
  std::filesystem::create_symlink("loop", loop);
  CHECK_THROWS_WITH(check_outputs({}, {{"--output", loop}}), Contains("levels of symbolic links"));
  CHECK_THROWS_WITH(write_file(loop, "text"), Contains("levels of symbolic links"));
  CHECK(std::filesystem::is_symlink(loop));
}

TEST_CASE("an integer that no double holds exactly is the nearest number", "[models][config]") {
  CHECK(number("9007199254740993") == 9007199254740992.0);
  CHECK(number("9223372036854775807") == 9223372036854775808.0);
  const ConfigFile file = document("x = [9007199254740993, 0.5]");
  CHECK(file.root().numbers("x") == std::vector<double>{9007199254740992.0, 0.5});
}

TEST_CASE("texts have no control characters", "[models][config]") {
  for (const char* text : {"x = \"a\\u001b[31m\"", "x = [\"a\\nb\"]", "x = {\"a\\u0085\" = 1}"}) {
    CAPTURE(text);
    CHECK_THROWS_WITH(document(text), Contains(": x must have no control characters"));
  }
  CHECK_THROWS_WITH(document("\"a\\u0085\" = 1"), Contains("control characters"));
}

TEST_CASE("JSON is nested a limited number of times, and has each key once", "[models][json]") {
  const auto nested = [](int depth) {
    const auto count = static_cast<std::size_t>(depth);
    return std::string(count, '[') + std::string(count, ']');
  };
  CHECK_NOTHROW(parse_json(nested(kDeepestJson), "f"));
  CHECK_THROWS_WITH(parse_json(nested(kDeepestJson + 1), "f"), StartsWith("f: is nested more"));
  CHECK_THROWS_WITH(parse_json(nested(200'000), "f"), StartsWith("f: is nested more than"));
  CHECK_THROWS_WITH(parse_json(R"({"a": {"b": 1}, "a": 2})", "f"), Contains("the key a twice"));
  CHECK_NOTHROW(parse_json(R"({"a": {"b": 1}, "b": [{"a": 2}]})", "f"));
  CHECK_THROWS_AS(parse_json("{\"a\": 1e999}", "f"), InputError);
  CHECK_THROWS_AS(parse_json("{} {}", "f"), InputError);
}

TEST_CASE("a message is one line that a terminal can show", "[models][errors]") {
  CHECK(printable("a plain line, with \xc3\xa9 and \xe2\x82\xac") ==
        "a plain line, with \xc3\xa9 and \xe2\x82\xac");
  CHECK(printable("a\nb\r\tc\x1b[31m\x7f") == "a\\nb\\r\\tc\\x1b[31m\\x7f");
  CHECK(printable("\xff\xc3(\xc2\x85\xed\xa0\x80") == "\\xff\\xc3(\\xc2\\x85\\xed\\xa0\\x80");
  CHECK(printable(std::string("\0", 1)) == "\\x00");
  CHECK(is_printable("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"));
  for (const char* text : {"\n", "\x7f", "\xff", "\xc2\x85", "\xe2\x82", "\xc0\x80"}) {
    CAPTURE(printable(text));
    CHECK_FALSE(is_printable(text));
  }
  const std::string shortened = printable(std::string(1'000'000, 'x'));
  CHECK(shortened.size() < 2000);
  CHECK_THAT(shortened, Contains("998200 bytes left out"));
}

TEST_CASE("a missing file and a directory cannot be read", "[models][files]") {
  const TemporaryDirectory directory;
  const std::string absent = directory.path("absent"), root = directory.path("");
  CHECK_THROWS_AS(read_file(absent, "layer file"), InputError);
  CHECK_THROWS_WITH(read_file(absent, "layer file"),
                    Equals(absent + ": cannot read this layer file: No such file or directory"));
  CHECK_THROWS_WITH(read_file(root, "layer file"),
                    Equals(root + ": cannot read this layer file: Is a directory"));
}

}  // namespace pipemoe::files_test
