import gzip
import json
import math
from pathlib import Path

import pytest
import torch

from cerulea.core.errors import Invalid, NotFound, SuiteInvalid
from cerulea.nn.decoder import Decoder
from cerulea.nn.shape import preset_shape
from cerulea.text.tokenizer import Tokenizer, bytes_tokenizer
from cerulea.train import detokenize, suite_files
from cerulea.train.evaluate import choose, score_texts
from cerulea.train.suites import SUITES, run_suite

SHARED = Path(__file__).parents[3] / "shared" / "data"
TABLE3 = ("lambada", "cbt-cn", "cbt-ne", "wikitext2", "ptb", "enwik8", "text8", "wikitext103", "1bw")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return bytes_tokenizer()


@pytest.fixture(scope="module")
def decoder(tokenizer: Tokenizer) -> Decoder:
    torch.manual_seed(11)
    decoder = Decoder(preset_shape("gpt2", vocab=tokenizer.vocab, layers=1, width=16, heads=2, context=96))
    with torch.no_grad():
        for weight in decoder.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.3)
    return decoder


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def jsonl(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


SCENE = {"activity_label": "Canoeing", "ctx": "A man gets in. he", "label": 1, "endings": [" sits.", "rows.", "x", "y"]}
SENTENCES = "".join(f"{i} `` I see , '' said the fox {i} .\n" for i in range(1, 21))
QUESTION = "21 `` Then XXXXX did n't go , '' he said .\tTom\t\tAnn|Tom|Max\n"


def test_hellaswag_picks_by_sum_by_byte_and_by_token(decoder, tokenizer, tmp_path):
    """One question of this house's form and one of the official form, with WikiHow's marks in it."""
    official = {
        **{"ind": 7, "activity_label": "Home", "ctx_a": "[header] How to [title] sit.", "ctx_b": "you"},
        **{"label": "0", "endings": ["sit  down [step] now.", "fly.", "swim in it.", "sing"], "split": "val"},
    }
    path = write(tmp_path / "hellaswag_val.jsonl", jsonl(SCENE, official))

    metrics = run_suite("hellaswag", decoder, tokenizer, [str(tmp_path)])["hellaswag"]

    first = choose(decoder, tokenizer, "Canoeing: A man gets in. he", [" sits.", " rows.", " x", " y"])
    second = choose(decoder, tokenizer, "Home: How to sit. you", [" sit down now.", " fly.", " swim in it.", " sing"])
    for metric, score in (("acc", "log_prob"), ("acc_norm", "per_byte"), ("acc_token_norm", "per_token")):
        hits = [getattr(first, score).argmax() == 1, getattr(second, score).argmax() == 0]
        assert metrics[metric] == sum(hits) / 2
    assert metrics["questions"] == 2
    assert metrics["file"] == str(path)


def test_lambada_scores_the_last_word_and_the_last_token(decoder, tokenizer, tmp_path):
    texts = ("He looked at the old sea captain", "Nobody knew what she had seen")
    path = write(tmp_path / "any.jsonl", jsonl(*({"text": text} for text in texts)))

    metrics = run_suite("lambada", decoder, tokenizer, [str(path)])["lambada"]

    alone = [choose(decoder, tokenizer, *(lambda c, e: (c, [" " + e]))(*text.rsplit(" ", 1))) for text in texts]
    assert metrics["perplexity"] == pytest.approx(math.exp(-sum(a.log_prob[0] for a in alone) / 2), rel=1e-5)
    assert metrics["last_token_perplexity"] == pytest.approx(
        math.exp(-sum(a.last_log_prob[0] for a in alone) / 2), 1e-5
    )
    assert metrics["acc"] == sum(a.greedy[0] for a in alone) / 2
    assert metrics["last_token_acc"] == sum(a.last_greedy[0] for a in alone) / 2


def test_cbt_scores_each_word_with_the_rest_of_its_sentence(decoder, tokenizer, tmp_path):
    path = write(tmp_path / "cbtest_NE_valid_2000ex.txt", SENTENCES + QUESTION + "\n" + SENTENCES + QUESTION + "\n")

    tasks = run_suite("gpt2-table3", decoder, tokenizer, [f"cbt-ne={path}"])

    scene = " ".join(f'"I see," said the fox {i}.' for i in range(1, 21))
    endings = [f"{word} didn't go,\" he said." for word in ("Ann", "Tom", "Max")]
    ((context, read, right), _) = suite_files.cbt_questions(path)
    assert (context, read, right) == (scene + ' "Then ', endings, 1)
    hit = choose(decoder, tokenizer, context, endings).log_prob.argmax() == 1
    assert tasks["cbt-ne"] == {"acc": float(hit), "questions": 2, "file": str(path)}


def test_wikitext_is_scored_detokenised_and_counted_as_it_stands(decoder, tokenizer, tmp_path):
    """12 words and 3 line ends; 60 bytes of file, fewer of text."""
    given = " \n = Sea = \n The <unk> @-@ old sea , 1 @,@ 000 m . \n"
    write(tmp_path / "wikitext-2" / "wiki.test.tokens", given)

    metrics = run_suite("wikitext2", decoder, tokenizer, [str(tmp_path)])["wikitext2"]

    score = score_texts(decoder, tokenizer, [["\n= Sea =\nThe <unk>-old sea, 1,000 m.\n"]])
    assert metrics["words"] == len(given.split()) + 3
    assert (metrics["lines"], metrics["bytes"], metrics["tokens"]) == (3, len(given), score.tokens)
    assert metrics["word_perplexity"] == pytest.approx(math.exp(score.nats / metrics["words"]))
    assert metrics["token_perplexity"] == pytest.approx(score.perplexity)
    assert metrics["bits_per_byte"] == pytest.approx(score.nats / math.log(2) / len(given))


def test_one_billion_word_scores_each_line_alone(decoder, tokenizer, tmp_path):
    path = write(tmp_path / "news.en.heldout-00000-of-00050", "The sea , he said .\nIt was n't there .\n")

    metrics = run_suite("gpt2-table3", decoder, tokenizer, [str(tmp_path)])["1bw"]

    score = score_texts(decoder, tokenizer, [["The sea, he said.\n"], ["It wasn't there.\n"]])
    assert metrics["words"] == len(path.read_text().split()) + 2
    assert metrics["word_perplexity"] == pytest.approx(math.exp(score.nats / metrics["words"]))


def test_penn_treebank_is_one_running_text(decoder, tokenizer, tmp_path):
    path = write(tmp_path / "ptb.test.txt", " no it was n't black monday \n the dow 's $ N <unk> \n")

    metrics = run_suite("gpt2-table3", decoder, tokenizer, [f"ptb={path}"], stride=40)["ptb"]

    text = "no it wasn't black monday\nthe dow's $N <unk>\n"
    score = score_texts(decoder, tokenizer, [[text]], stride=40)
    assert metrics["token_perplexity"] == pytest.approx(score.perplexity)
    assert metrics["words"] == len(path.read_text().split()) + 2


def test_enwik8_of_full_size_is_cut_to_its_last_part(decoder, tokenizer, tmp_path, monkeypatch):
    """The cut falls inside a two-byte character and the file ends inside another: neither is scored."""
    data = ("x" * 21 + "üabcü").encode()[:-1]
    monkeypatch.setattr(suite_files, "ENWIK_BYTES", len(data))
    monkeypatch.setattr(suite_files, "ENWIK_TEST_BYTES", 5)
    write(tmp_path / "enwik8", data)
    write(tmp_path / "text8.gz", gzip.compress(b" a given slice"))

    tasks = run_suite("gpt2-table3", decoder, tokenizer, [str(tmp_path)])

    score = score_texts(decoder, tokenizer, [["abc"]])
    assert tasks["enwik8"]["bytes"] == 3
    assert tasks["enwik8"]["bits_per_byte"] == pytest.approx(score.bits_per_byte)
    assert tasks["text8"]["bytes"] == len(" a given slice")


def test_a_data_set_that_is_not_there_is_named(decoder, tokenizer, tmp_path):
    write(tmp_path / "lambada_test.jsonl", jsonl({"text": "only this one"}))
    reported = []

    tasks = run_suite(
        "gpt2-table3",
        decoder,
        tokenizer,
        [str(tmp_path)],
        report=lambda name, metrics: reported.append((name, metrics)),
    )

    assert tuple(tasks) == TABLE3 == tuple(cell.name for cell in SUITES["gpt2-table3"])
    assert reported == list(tasks.items())
    for name in TABLE3[1:]:
        assert list(tasks[name]) == ["missing"]
        assert f"--data {name}=FILE" in tasks[name]["missing"]
    assert "cbtest_CN_valid_2000ex.txt" in tasks["cbt-cn"]["missing"]


def test_a_suite_without_any_data_says_what_it_needs(decoder, tokenizer, tmp_path):
    for data in ([], [str(tmp_path)]):
        with pytest.raises(SuiteInvalid) as refused:
            run_suite("gpt2-table3", decoder, tokenizer, data)
        for name in TABLE3:
            assert f"{name}: " in str(refused.value)


def test_data_that_is_not_understood_is_refused(decoder, tokenizer, tmp_path):
    path = write(tmp_path / "lambada_test.jsonl", jsonl({"text": "some words"}))
    with pytest.raises(NotFound, match="no suite"):
        run_suite("table3", decoder, tokenizer, [str(path)])
    with pytest.raises(NotFound, match="no file"):
        run_suite("lambada", decoder, tokenizer, ["lambada=/nowhere"])
    with pytest.raises(NotFound, match="no file or folder"):
        run_suite("lambada", decoder, tokenizer, ["/nowhere"])
    with pytest.raises(SuiteInvalid, match="no data set 'hellaswag'"):
        run_suite("lambada", decoder, tokenizer, [f"hellaswag={path}"])
    with pytest.raises(SuiteInvalid, match="does not say which"):
        run_suite("gpt2-table3", decoder, tokenizer, [str(path)])
    with pytest.raises(Invalid, match="limit"):
        run_suite("lambada", decoder, tokenizer, [str(path)], limit=0)


def test_several_files_of_one_data_set_are_not_guessed_between(decoder, tokenizer, tmp_path):
    for name in ("hellaswag-val-a.jsonl", "hellaswag-val-b.jsonl"):
        write(tmp_path / name, jsonl(SCENE))
    with pytest.raises(SuiteInvalid, match="several files"):
        run_suite("hellaswag", decoder, tokenizer, [str(tmp_path)])
    write(tmp_path / "hellaswag_val.jsonl", jsonl(SCENE))
    assert run_suite("hellaswag", decoder, tokenizer, [str(tmp_path)])["hellaswag"]["questions"] == 1


def test_a_limit_scores_only_the_first(decoder, tokenizer, tmp_path):
    write(tmp_path / "hellaswag_val.jsonl", jsonl(SCENE, SCENE, SCENE) + "not read\n")
    write(tmp_path / "text8", "a" * 2500)
    write(tmp_path / "ptb.test.txt", "one line \n two lines \n")

    assert run_suite("hellaswag", decoder, tokenizer, [str(tmp_path)], limit=2)["hellaswag"]["questions"] == 2
    tasks = run_suite("gpt2-table3", decoder, tokenizer, [str(tmp_path)], limit=1)
    assert (tasks["text8"]["bytes"], tasks["ptb"]["lines"]) == (1000, 1)


@pytest.mark.parametrize(
    ("task", "text", "line", "says"),
    [
        ("hellaswag", jsonl(SCENE) + "{broken\n", 2, "not JSON"),
        ("hellaswag", jsonl(SCENE) + "\n[1]\n", 3, "no JSON object"),
        ("hellaswag", jsonl({**SCENE, "label": 4}), 1, "label 4"),
        ("hellaswag", jsonl({**SCENE, "label": ""}), 1, "label ''"),
        ("hellaswag", jsonl({**SCENE, "endings": ["a", "[header]", "c", "d"]}), 1, "endings"),
        ("hellaswag", jsonl({k: v for k, v in SCENE.items() if k != "ctx"}), 1, "ctx"),
        ("lambada", jsonl({"text": "two words"}, {"text": "one"}), 2, "two words"),
        ("lambada", jsonl({"words": "none"}), 1, "two words"),
        ("lambada", '{"text": "half \\ud800"}\n', 1, "surrogate"),
        ("lambada", b'{"text": "two words"}\n{"text": "\xff b"}\n', 2, "not UTF-8"),
        ("cbt-cn", SENTENCES + SENTENCES, 21, "should be line 21"),
        ("cbt-cn", SENTENCES + QUESTION.replace("XXXXX", "he"), 21, "XXXXX"),
        ("cbt-cn", SENTENCES + QUESTION.replace("\tTom\t", "\tTim\t"), 21, "answer"),
        ("cbt-cn", SENTENCES + "21 XXXXX\n", 21, "answer"),
        ("cbt-cn", SENTENCES, 20, "middle of a question"),
        ("ptb", b"good \n \xff bad \n", 2, "not UTF-8"),
    ],
)
def test_a_malformed_line_is_refused_with_its_place(decoder, tokenizer, tmp_path, task, text, line, says):
    path = write(tmp_path / "data", text)
    suite = task if task in SUITES else "gpt2-table3"
    with pytest.raises(SuiteInvalid) as refused:
        run_suite(suite, decoder, tokenizer, [f"{task}={path}"])
    assert f"{path}:{line} " in str(refused.value)
    assert says in str(refused.value)


@pytest.mark.parametrize("name", ["broken.gz", "broken.xz", "broken.zst"])
@pytest.mark.parametrize("task", ["lambada", "enwik8"])
def test_a_broken_archive_is_refused(decoder, tokenizer, tmp_path, name, task):
    path = write(tmp_path / name, "this is no archive")
    with pytest.raises(SuiteInvalid, match="cannot be read"):
        run_suite("gpt2-table3", decoder, tokenizer, [f"{task}={path}"])


@pytest.mark.parametrize("task", ["lambada", "cbt-ne", "wikitext103", "text8"])
def test_an_empty_file_is_refused(decoder, tokenizer, tmp_path, task):
    path = write(tmp_path / "empty", "")
    with pytest.raises(SuiteInvalid, match=r"empty|nothing to score"):
        run_suite("gpt2-table3", decoder, tokenizer, [f"{task}={path}"])


@pytest.mark.parametrize(
    ("undo", "given", "meant"),
    [
        ("wikitext", " = = = In music = = = ", "=== In music ==="),
        ("wikitext", " x = 3 = y ", "x = 3 = y"),
        ("wikitext", " 0 @.@ 7 – 2 @,@ 200 kg ( 1 @.@ 5 lb ) . ", "0.7 – 2,200 kg (1.5 lb)."),
        ("wikitext", ' the " <unk> " , and " it " . ', 'the "<unk>", and "it".'),
        (
            "wikitext",
            " the boys ' house , M @-@ 82 's end ; H. americanus ",
            "the boys' house, M-82's end; H. americanus",
        ),
        ("wikitext", ' a lone " mark ', 'a lone " mark'),
        ("english", "`` Stop -LRB- now -RRB- ! '' he said .", '"Stop (now)!" he said.'),
        ("english", "they 'll say it 's n't N % of $ N", "they'll say it'sn't N% of $N"),
        ("cbt", "` Come , ' said XXXXX , ` or do n't . '", "'Come,' said XXXXX, 'or don't.'"),
    ],
)
def test_tokenised_text_becomes_plain(undo, given, meant):
    assert getattr(detokenize, undo)(given) == meant


def test_detokenising_loses_no_letter_of_wikitext():
    """Letters and digits of the shared validation file come through in their order."""
    path = SHARED / "wikitext-2" / "valid.txt"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    for line in path.read_text(encoding="utf-8").split("\n"):
        plain = detokenize.wikitext(line)
        assert [c for c in plain if c.isalnum()] == [c for c in line if c.isalnum()]
        assert " , " not in plain and " @" not in plain


def test_the_shared_hellaswag_file_is_read(decoder, tokenizer):
    path = SHARED / "hellaswag-val-0001-2000.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")

    metrics = run_suite("hellaswag", decoder, tokenizer, [str(SHARED)], limit=20)["hellaswag"]

    assert metrics["questions"] == 20
    assert metrics["file"] == str(path)
    for name in ("acc", "acc_norm", "acc_token_norm"):
        assert 0.0 <= metrics[name] <= 1.0
    context, endings, right = next(suite_files.hellaswag_questions(path))
    assert context == "Roof shingle removal: A man is sitting on a roof. he"
    assert endings[right] == " starts pulling up roofing on a roof."
