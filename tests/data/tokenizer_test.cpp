#include "data/tokenizer.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "data/source.h"
#include "data/tokenizer/json.h"
#include "data/tokenizer/model.h"
#include "tests/data/files.h"

namespace quietformer {
namespace {

const std::string kFixtures = QUIETFORMER_SOURCE "/tests/data/fixtures";
using Ids = std::vector<std::int32_t>;

class TokenizerTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!tokenizers_built()) GTEST_SKIP() << "built without ICU";
  }
};

// What `tokenizers` gave for the texts of fixtures/make_tokenizers.py.
class TokenizerFixture : public TokenizerTest, public testing::WithParamInterface<const char*> {};

TEST_P(TokenizerFixture, IdsAndTextsAreThoseOfTheReference) {
  const JsonNode root = read_json(kFixtures + "/expected.json");
  const Json expected(root, "expected.json");
  const auto tokenizer = open_tokenizer(kFixtures + "/" + GetParam());
  const Json mine = expected["tokenizers"][GetParam()];
  const std::vector<Json> texts = expected["texts"].values(), ids = mine["ids"].values(),
                          decoded = mine["text"].values(), marked = mine["with_special"].values();
  ASSERT_GT(texts.size(), 25u);
  ASSERT_EQ(texts.size(), ids.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    Ids wanted;
    for (const JsonNode& id : ids[i].node().children)
      wanted.push_back(static_cast<std::int32_t>(id.integer));
    const Ids found = tokenizer->encode(texts[i].text());
    EXPECT_EQ(found, wanted) << texts[i].text();
    EXPECT_EQ(tokenizer->decode(found), decoded[i].text());
    if (i + marked.size() >= texts.size()) {
      EXPECT_EQ(tokenizer->decode(found, SpecialTokens::with),
                marked[i + marked.size() - texts.size()].text());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerFixture,
                         testing::Values("gpt2", "roberta", "bert", "bert-cased", "llama"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST_F(TokenizerTest, ByteLevelGivesBackEveryText) {
  const auto tokenizer = open_tokenizer(kFixtures + "/gpt2");
  std::mt19937 random(1);
  const auto below = [&](int bound) { return static_cast<int>(random() % std::uint32_t(bound)); };
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (int size = below(120); size > 0; --size) {
      // Bytes of all kinds, pieces of UTF-8 sequences, letters and spaces.
      const int kind = below(4);
      text += kind == 0   ? std::string(1, static_cast<char>(below(256)))
              : kind == 1 ? std::string("\xF0\x9F\x98\x80").substr(0, std::size_t(1 + below(4)))
              : kind == 2 ? std::string(std::size_t(below(5)), ' ')
                          : std::string(1, static_cast<char>('a' + below(26)));
    }
    const Ids ids = tokenizer->encode(text);
    EXPECT_EQ(tokenizer->decode(ids), text);
    for (const std::int32_t id : ids) EXPECT_LT(id, tokenizer->vocab_size());
    // What is shown of the first ids stays when more follow.
    const Ids some(ids.begin(), ids.begin() + std::ptrdiff_t(ids.size() / 2));
    EXPECT_TRUE(text.starts_with(tokenizer->decode(some)));
  }
}

TEST_F(TokenizerTest, WhatIsNotUtf8) {
  // A maximal prefix of a sequence is one U+FFFD, which BERT's cleaning leaves out.
  const auto bert = open_tokenizer(kFixtures + "/bert");
  EXPECT_EQ(bert->encode("the\xE2\x82\xFFsink\xC0"), bert->encode("thesink"));
  const auto llama = open_tokenizer(kFixtures + "/llama");
  EXPECT_EQ(llama->encode("a\xF0\x9F\x98"
                          "b\xED\xA0\x80"),
            llama->encode("a\uFFFD"
                          "b\uFFFD\uFFFD\uFFFD"));
}

// Marks that BERT keeps: spacing ones. Their canonical order is that of their classes.
TEST_F(TokenizerTest, MarksInCanonicalOrder) {
  const Folder folder;
  const auto tokenizer = open_tokenizer(folder.write(
      "tokenizer.json", R"({"normalizer":{"type":"BertNormalizer"},"model":{"type":"WordPiece",)"
                        R"("vocab":{"[UNK]":0,"a":1,"##\ud834\udd65":2,"##\u302e":3}}})"));
  EXPECT_EQ(tokenizer->encode("a\U0001D165\u302E"), (Ids{1, 2, 3}));
  EXPECT_EQ(tokenizer->encode("a\u302E\U0001D165"), (Ids{1, 2, 3}));
}

TEST_F(TokenizerTest, SpecialIds) {
  const auto roberta = open_tokenizer(kFixtures + "/roberta");
  const SpecialIds& ids = roberta->special();
  EXPECT_EQ((Ids{ids.bos, ids.eos, ids.cls, ids.sep, ids.padding, ids.unknown}),
            (Ids{0, 2, 0, 2, 1, 3}));
  EXPECT_EQ(ids.mask, roberta->id_of("<mask>"));
  EXPECT_EQ(roberta->token(ids.mask), "<mask>");
  EXPECT_EQ(roberta->vocab_size(), 604);
  EXPECT_EQ(open_tokenizer(kFixtures + "/gpt2")->special().eos, 0);
  const Ids plain = roberta->encode("quiet", SpecialTokens::without);
  Ids around = plain;
  around.insert(around.begin(), 0);
  around.push_back(2);
  EXPECT_EQ(roberta->encode("quiet"), around);
}

// Two ways to merge, by the length of the word, and the definition: the strongest pair, the
// leftmost of equals.
TEST_F(TokenizerTest, MergesAreTheDefinitionForWordsOfAnyLength) {
  ModelSpec spec;
  spec.where = "vocab", spec.merges_where = "merges";
  Vocabulary vocabulary;
  std::int32_t next = 0;
  const auto add = [&](const std::string& token) {
    if (!vocabulary.find(token)) vocabulary.add(token, next++, "test");
  };
  for (const char* token : {"a", "b", "c"}) add(token);
  std::mt19937 random(3);
  std::vector<std::string> tokens{"a", "b", "c"};
  std::map<std::pair<std::string, std::string>, std::size_t> rank;
  while (spec.merges.size() < 60) {
    const std::string left = tokens[random() % tokens.size()],
                      right = tokens[random() % tokens.size()];
    if (left.size() + right.size() > 9 || rank.contains({left, right})) continue;
    rank[{left, right}] = spec.merges.size();
    spec.merges.emplace_back(left, right);
    add(left + right);
    tokens.push_back(left + right);
  }
  const auto model = make_bpe(spec, vocabulary, false);
  for (int round = 0; round < 400; ++round) {
    std::string word;
    for (std::size_t size = 1 + random() % 120; size > 0; --size)
      word += static_cast<char>('a' + random() % 3);
    std::vector<std::string> parts;
    for (const char c : word) parts.emplace_back(1, c);
    while (true) {
      std::size_t best = spec.merges.size(), at = 0;
      for (std::size_t i = 0; i + 1 < parts.size(); ++i)
        if (const auto found = rank.find({parts[i], parts[i + 1]});
            found != rank.end() && found->second < best)
          best = found->second, at = i;
      if (best == spec.merges.size()) break;
      parts[at] += parts[at + 1];
      parts.erase(parts.begin() + std::ptrdiff_t(at) + 1);
    }
    Ids wanted, found;
    for (const std::string& part : parts) wanted.push_back(*vocabulary.find(part));
    model->encode(word, found);
    ASSERT_EQ(found, wanted) << word;
  }
}

TEST_F(TokenizerTest, AMillionBytesWithoutASpace) {
  const auto tokenizer = open_tokenizer(kFixtures + "/gpt2");
  std::string text;
  while (text.size() < 1'000'000) text += "thequietsink";
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);  // quadratic time would take hours
}

TEST_F(TokenizerTest, AsASource) {
  const Folder folder;
  const std::string text = "The quiet former listens to the quiet sink.";
  for (const std::string& path : {folder.write("t.txt", text), folder.write("t.gz", gzip(text))}) {
    const auto tokenizer = open_tokenizer(kFixtures + "/roberta");
    SourceRequest request;
    request.kind = SourceKind::tokens;
    request.path = path;
    request.tokenizer = tokenizer.get();
    const auto source = open_source(request);
    EXPECT_EQ(read_all(*source), tokenizer->encode(text));
    EXPECT_EQ(source->vocab(), tokenizer->vocab_size());
    EXPECT_EQ(source->text_bytes(), std::ssize(text));
    request.vocab = 300;
    const std::string message = input_error([&] { open_source(request); });
    EXPECT_TRUE(message.starts_with("data.path: " + path + ": token '")) << message;
    EXPECT_TRUE(message.ends_with(", expected ids below the vocabulary of 300")) << message;
  }
}

// A tokenizer.json with one section changed, or all of it.
class BadTokenizer : public TokenizerTest {
 protected:
  const std::string kGood =
      R"({"added_tokens":[ADDED],"normalizer":NORMALIZER,"pre_tokenizer":PRE,)"
      R"("post_processor":POST,"decoder":DECODER,"model":MODEL})";
  const std::string kBpe = R"({"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]})";
  const std::string kWordPiece = R"({"type":"WordPiece","vocab":{"[UNK]":0,"a":1}})";

  std::string refused(const std::string& text) {
    const std::string path = folder_.write("tokenizer.json", text);
    const std::string message = input_error([&] { open_tokenizer(path); });
    EXPECT_TRUE(message.starts_with(path + ": ")) << message;
    return message.substr(std::min(message.size(), path.size() + 2));
  }
  std::string with(const std::string& section, const std::string& value) {
    std::string text = kGood;
    for (const auto& [name, usual] : std::map<std::string, std::string>{{"ADDED", ""},
                                                                        {"NORMALIZER", "null"},
                                                                        {"PRE", "null"},
                                                                        {"POST", "null"},
                                                                        {"DECODER", "null"},
                                                                        {"MODEL", kBpe}})
      text.replace(text.find(name), name.size(), name == section ? value : usual);
    return text;
  }
  std::string refused(const std::string& section, const std::string& value) {
    return refused(with(section, value));
  }
  Folder folder_;
};

TEST_F(BadTokenizer, Documents) {
  EXPECT_EQ(refused(""), "not UTF-8 JSON, at byte 1");
  EXPECT_EQ(refused("{\"a\xff\": 1}"), "not UTF-8 JSON, at byte 4");
  EXPECT_EQ(refused("[1, 2]"), "found a list of 2, expected an object");
  EXPECT_EQ(refused("{}"), "model: found nothing, expected an object");
  EXPECT_EQ(refused(std::string(100, '[')), "nested more than 64 deep");
  EXPECT_EQ(refused(R"({"model": 1, "model": 2})"), "key 'model' is given twice");
  folder_.write("tokenizer.json", with("", ""));
  EXPECT_EQ(open_tokenizer(folder_.path(""))->encode("abba"), (Ids{2, 1, 0}));
}

TEST_F(BadTokenizer, Models) {
  const auto model = [&](const std::string& text) { return refused("MODEL", text); };
  EXPECT_EQ(model(R"({"type":"Unigram","vocab":{}})"),
            "model.type: found 'Unigram', expected BPE or WordPiece");
  EXPECT_EQ(model(R"({"vocab":{"a":0,"b":0},"merges":[]})"),
            "model.vocab: id 0 belongs to 'a' and to 'b'");
  EXPECT_EQ(model(R"({"vocab":{"a":0,"a":1},"merges":[]})"), "key 'a' is given twice");
  EXPECT_EQ(model(R"({"vocab":{"a":0,"b":2000000000},"merges":[]})"),
            "model.vocab: no token has the id 1, and there are 2 tokens");
  EXPECT_EQ(model(R"({"vocab":{"a":-1},"merges":[]})"),
            "model.vocab.a: found -1, expected an integer from 0 to 2147483646");
  EXPECT_EQ(model(R"({"vocab":{"a":1e3},"merges":[]})"),
            "model.vocab.a: found a number that is not an integer of 64 bits, expected an integer "
            "from 0 to 2147483646");
  EXPECT_EQ(model(R"({"vocab":{},"merges":[]})"), "model.vocab: no tokens");
  EXPECT_EQ(model(R"({"vocab":{"a":0,"b":1},"merges":["a b"]})"),
            "model.merges[0]: 'a' and 'b': 'ab' is not in the vocabulary");
  EXPECT_EQ(model(R"({"vocab":{"a":0},"merges":["a b"]})"),
            "model.merges[0]: 'a' and 'b': 'b' is not in the vocabulary");
  EXPECT_EQ(model(R"({"vocab":{"a":0},"merges":["a"]})"),
            "model.merges[0]: found 'a', expected two tokens, as \"a b\" or [\"a\", \"b\"]");
  EXPECT_EQ(model(R"({"vocab":{"a":0},"merges":[],"unk_token":"<unk>"})"),
            "model.vocab: the unknown token '<unk>' is not in the vocabulary");
  EXPECT_EQ(model(R"({"vocab":{"a":0},"merges":[],"dropout":0.1})").substr(0, 14),
            "model.dropout:");
  EXPECT_EQ(model(R"({"type":"WordPiece","vocab":{"a":0}})"),
            "model.vocab: the unknown token '[UNK]' is not in the vocabulary");
}

TEST_F(BadTokenizer, Sections) {
  EXPECT_EQ(refused("NORMALIZER", R"({"type":"NFKC"})"),
            "normalizer.type: found 'NFKC', expected BertNormalizer, Prepend, Replace or Sequence");
  EXPECT_EQ(refused("NORMALIZER", R"({"type":"Replace","pattern":{"Regex":"a"},"content":""})"),
            "normalizer.pattern: found an object of 1 keys, expected {\"String\": ...} (regular "
            "expressions are not supported)");
  const std::string longer =
      R"({"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaaa"},)";
  EXPECT_EQ(refused("NORMALIZER", R"({"type":"Sequence","normalizers":[)" + longer + longer +
                                      R"({"type":"Prepend","prepend":"a"}]})"),
            "normalizer: found an object of 2 keys, expected steps that make a text at most 64 "
            "times as long");
  EXPECT_EQ(refused("PRE", R"({"type":"Split"})"),
            "pre_tokenizer.type: found 'Split', expected ByteLevel, BertPreTokenizer, Whitespace, "
            "WhitespaceSplit or Metaspace");
  EXPECT_EQ(refused("DECODER", R"({"type":"CTC"})").substr(0, 27), "decoder.type: found 'CTC', ");
  EXPECT_EQ(refused("POST", R"({"type":"BertProcessing","sep":["b",1],"cls":["a",3]})"),
            "post_processor: found the id 3, expected ids below 3");
  EXPECT_EQ(refused("POST", R"({"type":"TemplateProcessing","single":[],"special_tokens":{}})"),
            "post_processor.single: found a list of 0, expected the sequence A once");
  EXPECT_EQ(refused("ADDED", R"({"id":3,"content":""})"), "added token '': is empty");
  EXPECT_EQ(refused("ADDED", R"({"id":2,"content":"a"})").substr(0, 36),
            "added token 'a': has the id 2, and 0");
  EXPECT_EQ(refused("ADDED", R"({"id":9,"content":"x"})"),
            "model.vocab: no token has the id 3, and there are 4 tokens");
  EXPECT_EQ(refused("ADDED", R"({"id":1,"content":"x"})"),
            "added token 'x': id 1 belongs to 'b' and to 'x'");
}

TEST_F(BadTokenizer, VocabularyFiles) {
  const std::string here = folder_.path("");
  const auto message = [&] { return input_error([&] { open_tokenizer(here); }); };
  EXPECT_EQ(message(), here +
                           ": no tokenizer, expected tokenizer.json, vocab.json with merges.txt, "
                           "or vocab.txt");
  EXPECT_FALSE(has_tokenizer(here));
  EXPECT_EQ(input_error([&] { open_tokenizer(here + "absent"); }),
            here + "absent: no such file or directory");
  folder_.write("vocab.txt", "[UNK]\n[CLS]\n[SEP]\na\na\n");
  EXPECT_TRUE(has_tokenizer(here));
  EXPECT_EQ(message(), here + "/vocab.txt: token 'a' is there twice, as 3 and as 4");
  folder_.write("vocab.txt", "[UNK]\r\n[CLS]\r\na\r\n");
  EXPECT_EQ(message(), here + "/vocab.txt: no token '[SEP]', which is the sep_token");
  folder_.write("vocab.json", R"({"a":0,"b":1})");
  EXPECT_TRUE(message().starts_with(here + "/merges.txt: ")) << message();
  folder_.write("merges.txt", "#version: 0.2\na b c\n");
  EXPECT_EQ(message(), here +
                           "/merges.txt:2: found 'a b c', expected two tokens with a space "
                           "between");
  folder_.write("merges.txt", "a b\n");
  EXPECT_EQ(message(), here + "/merges.txt[0]: 'a' and 'b': 'ab' is not in the vocabulary");
  folder_.write("merges.txt", "");
  EXPECT_EQ(open_tokenizer(here)->encode("ab"), (Ids{0, 1}));
  folder_.write("tokenizer_config.json", R"({"tokenizer_class":"T5Tokenizer"})");
  EXPECT_EQ(message(), here +
                           "/tokenizer_config.json: tokenizer_class: found 'T5Tokenizer', "
                           "expected a class of GPT2 or Roberta beside vocab.json");
}

}  // namespace
}  // namespace quietformer
