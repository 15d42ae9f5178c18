import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from cerulea.core.errors import CorpusInvalid, Invalid, NotFound
from cerulea.nn.decoder import Decoder
from cerulea.nn.shape import preset_shape
from cerulea.text.tokenizer import Tokenizer, bytes_tokenizer, train_bpe
from cerulea.train.evaluate import Score, choose, held_out, score_endings, score_file, score_ids, score_texts

CONTEXT = 12


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return bytes_tokenizer()


def randomised(preset: str, vocab: int, context: int = CONTEXT) -> Decoder:
    """A decoder whose every matrix is random: compat and modern start with heads of zero."""
    torch.manual_seed(7)
    decoder = Decoder(preset_shape(preset, vocab=vocab, layers=2, width=16, heads=2, context=context))
    with torch.no_grad():
        for weight in decoder.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.3)
    return decoder


@pytest.fixture(scope="module", params=["gpt2", "compat", "modern"])
def decoder(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Decoder:
    return randomised(request.param, tokenizer.vocab)


def one_by_one(decoder: Decoder, ids: np.ndarray, bytes_of: np.ndarray, context: int, stride: int) -> Score:
    """One forward pass per token, each over just the tokens that its window shows."""
    score = Score(0.0, 0, 0)
    decoder.eval()
    for at in range(1, len(ids)):
        begin = 0 if at <= context else stride * math.ceil((at - context) / stride)
        if bytes_of[ids[at]] == 0:
            continue
        with torch.no_grad():
            logits_V = decoder(torch.tensor([ids[begin:at].tolist()]))[0, -1].double()
        loss = -torch.log_softmax(logits_V, dim=-1)[int(ids[at])].item()
        score += Score(loss, 1, int(bytes_of[ids[at]]))
    return score


def packed(tokenizer: Tokenizer, *texts: str) -> np.ndarray:
    end = np.array([tokenizer.end_of_text], tokenizer.dtype)
    return np.concatenate([end, *(part for text in texts for part in (tokenizer.encode(text), end))])


@pytest.mark.parametrize("stride", [None, 1, 5, 6, CONTEXT])
@pytest.mark.parametrize("length", [0, 1, CONTEXT - 1, CONTEXT, CONTEXT + 1, 3 * CONTEXT + 5])
def test_sliding_windows_equal_scoring_one_token_at_a_time(decoder, tokenizer, stride, length):
    text = "The sea was calm that night, and nobody spoke."[:length]
    ids = packed(tokenizer, text)[:-1]

    score = score_ids(decoder, ids, tokenizer.bytes_of, stride=stride, rows=3)

    truth = one_by_one(decoder, ids, tokenizer.bytes_of, CONTEXT, stride or CONTEXT)
    assert (score.tokens, score.bytes) == (truth.tokens, truth.bytes) == (length, length)
    assert score.nats == pytest.approx(truth.nats, abs=1e-6 * max(length, 1))


def test_a_shorter_context_is_scored_as_such(decoder, tokenizer):
    ids = packed(tokenizer, "A shorter context than the model takes")

    score = score_ids(decoder, ids, tokenizer.bytes_of, context=7, stride=3)

    truth = one_by_one(decoder, ids, tokenizer.bytes_of, 7, 3)
    assert score.tokens == truth.tokens
    assert score.nats == pytest.approx(truth.nats, abs=1e-6 * truth.tokens)


def test_special_tokens_condition_but_are_not_scored(decoder, tokenizer):
    """Three documents, one of them empty, so that end-of-text follows end-of-text."""
    ids = packed(tokenizer, "one", "", "two and a half documents")

    score = score_ids(decoder, ids, tokenizer.bytes_of, stride=4)

    truth = one_by_one(decoder, ids, tokenizer.bytes_of, CONTEXT, 4)
    assert score.tokens == score.bytes == len("one") + len("two and a half documents") == truth.tokens
    assert score.nats == pytest.approx(truth.nats, abs=1e-6 * truth.tokens)


def test_nothing_but_special_tokens_scores_nothing(decoder, tokenizer):
    ids = np.full(30, tokenizer.end_of_text, np.uint16)

    score = score_ids(decoder, ids, tokenizer.bytes_of)

    assert score == Score(0.0, 0, 0)
    assert math.isnan(score.loss) and math.isnan(score.perplexity) and math.isnan(score.bits_per_byte)


def test_more_context_is_never_less_than_context_minus_stride(decoder, tokenizer):
    """Stride 1 shows each token the whole context: the last token's loss is that of a full window."""
    ids = packed(tokenizer, "x" * 20 + "z")[:-1]

    with_z = score_ids(decoder, ids, tokenizer.bytes_of, stride=1)
    without = score_ids(decoder, ids[:-1], tokenizer.bytes_of, stride=1)

    with torch.no_grad():
        full = torch.log_softmax(decoder.eval()(torch.tensor([ids[-1 - CONTEXT : -1].tolist()]))[0, -1], dim=-1)
    assert with_z.nats - without.nats == pytest.approx(-full[int(ids[-1])].item(), abs=1e-4)


def test_a_stride_or_context_out_of_range_is_refused(decoder, tokenizer):
    ids = packed(tokenizer, "text")
    for wrong in ({"stride": 0}, {"stride": CONTEXT + 1}, {"context": 0}, {"context": CONTEXT + 1}):
        with pytest.raises(Invalid):
            score_ids(decoder, ids, tokenizer.bytes_of, **wrong)


def test_bits_per_byte_loss_and_perplexity_are_one_number(decoder, tokenizer):
    score = score_texts(decoder, tokenizer, [["Grüße aus dem Norden"]])

    assert score.bytes == len("Grüße aus dem Norden".encode()) == score.tokens
    assert score.bits_per_byte == pytest.approx(score.loss / math.log(2))
    assert score.perplexity == pytest.approx(2**score.bits_per_byte)
    assert score + score == Score(2 * score.nats, 2 * score.tokens, 2 * score.bytes)
    assert (score + score).loss == score.loss


def test_a_model_of_even_chances_scores_the_logarithm_of_its_vocabulary(tokenizer):
    """The modern preset begins with a head of zeros."""
    even = Decoder(preset_shape("modern", vocab=tokenizer.vocab, layers=2, width=16, heads=2, context=CONTEXT))

    score = score_texts(even, tokenizer, [["any text at all"]])

    assert score.loss == pytest.approx(math.log(tokenizer.vocab), abs=1e-6)


def test_tokens_of_several_bytes_count_their_bytes(tokenizer):
    bpe = train_bpe(iter(["the sea and the sand and the sun"] * 50), 265)
    model = randomised("gpt2", bpe.vocab)
    text = "the sand and the sea"

    score = score_texts(model, bpe, [[text]])

    ids = packed(bpe, text)
    assert score == score_ids(model, ids, bpe.bytes_of)
    assert score.bytes == len(text) > score.tokens
    assert score.bits_per_byte == pytest.approx(score.nats / math.log(2) / len(text))


def test_the_held_out_set_is_scored_in_contiguous_windows(decoder, tokenizer, tmp_path):
    """Read through a memory map, as training does; the byte count is the one given."""
    ids = packed(tokenizer, "A document.", "Another, which is longer than a window is.")
    ids.tofile(tmp_path / "valid.bin")
    mapped = np.memmap(tmp_path / "valid.bin", tokenizer.dtype, "r")

    score = held_out(decoder, mapped, tokenizer.bytes_of, 1000, rows=2)

    plain = score_ids(decoder, ids, tokenizer.bytes_of)
    assert score == Score(pytest.approx(plain.nats), plain.tokens, 1000)


def test_scoring_leaves_the_decoder_as_it_was(tokenizer):
    """A decoder in training, in bfloat16 and with dropout is scored in float32 without dropout."""
    torch.manual_seed(1)
    shape = preset_shape("gpt2", vocab=tokenizer.vocab, layers=1, width=16, heads=2, context=CONTEXT)
    model = Decoder(shape, dropout=0.5)
    model.compute_dtype = torch.bfloat16
    ids = packed(tokenizer, "Scored in float32, without dropout")

    first = score_ids(model.train(), ids, tokenizer.bytes_of)
    second = score_ids(model, ids, tokenizer.bytes_of)

    assert model.training and model.blocks[0].training
    assert model.compute_dtype == torch.bfloat16
    assert first == second
    model.compute_dtype = torch.float32
    assert score_ids(model.eval(), ids, tokenizer.bytes_of) == first
    assert not model.training


def test_a_decoder_that_fails_is_put_back_too(tokenizer):
    model = randomised("gpt2", tokenizer.vocab).train()
    with pytest.raises(IndexError):
        score_ids(model, np.array([0, 1, tokenizer.vocab + 5]), np.ones(tokenizer.vocab + 9, np.int32))
    assert model.training


def test_batches_of_any_size_give_the_same_score(decoder, tokenizer):
    ids = packed(tokenizer, *(f"document {'number ' * (i % 5)}{i}" for i in range(9)))
    scores = [score_ids(decoder, ids, tokenizer.bytes_of, stride=5, rows=rows) for rows in (1, 2, 16)]
    for score in scores:
        assert score.nats == pytest.approx(scores[0].nats, rel=1e-6)
        assert (score.tokens, score.bytes) == (scores[0].tokens, scores[0].bytes)


def test_each_document_of_a_file_is_scored_on_its_own(decoder, tokenizer, tmp_path):
    path = tmp_path / "two.jsonl"
    path.write_text('{"text": "A first document."}\n\n{"text": "And a second, longer one."}\n', encoding="utf-8")

    score = score_file(decoder, tokenizer, path, stride=5)

    texts = ("A first document.", "And a second, longer one.")
    alone = [score_ids(decoder, packed(tokenizer, text), tokenizer.bytes_of, stride=5) for text in texts]
    assert score.nats == pytest.approx(alone[0].nats + alone[1].nats, rel=1e-6)
    assert score.bytes == score.tokens == sum(map(len, texts))


def test_a_text_file_may_be_packed_and_longer_than_a_piece(decoder, tokenizer, tmp_path, monkeypatch):
    import gzip

    monkeypatch.setattr("cerulea.text.files.PIECE_CHARS", 16)
    text = "one two three four five six seven eight nine ten"
    (tmp_path / "plain.txt").write_text(text, encoding="utf-8")
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(text.encode()))

    plain = score_file(decoder, tokenizer, tmp_path / "plain.txt")

    assert plain == score_file(decoder, tokenizer, tmp_path / "packed.txt.gz")
    assert plain == score_texts(decoder, tokenizer, [[text]])


def test_a_file_that_is_missing_or_empty_is_refused(decoder, tokenizer, tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(NotFound):
        score_file(decoder, tokenizer, tmp_path / "none.txt")
    with pytest.raises(CorpusInvalid, match="no text"):
        score_file(decoder, tokenizer, tmp_path / "empty.txt")


def ending_alone(decoder: Decoder, tokenizer: Tokenizer, context: str, ending: str) -> Iterator[tuple[float, bool]]:
    """Log-probability of each of the ending's tokens, and whether it is the argmax: one forward pass each."""
    before = [tokenizer.end_of_text, *tokenizer.encode(context).tolist()]
    target = tokenizer.encode(ending).tolist()
    window = (before + target)[-(decoder.shape.context + 1) :]
    for at in range(len(window) - len(target), len(window)):
        with torch.no_grad():
            log_V = torch.log_softmax(decoder.eval()(torch.tensor([window[:at]]))[0, -1].double(), dim=-1)
        yield log_V[window[at]].item(), int(log_V.argmax()) == window[at]


def test_endings_equal_each_one_scored_alone(decoder, tokenizer):
    """Context and endings of several lengths, the longest of which push the context out at the left."""
    context, endings = "Who?", [" me", " somebody", " Grüße", " a", " the other"]

    result = choose(decoder, tokenizer, context, endings)

    for i, ending in enumerate(endings):
        alone = list(ending_alone(decoder, tokenizer, context, ending))
        assert result.log_prob[i] == pytest.approx(sum(p for p, _ in alone), abs=1e-5)
        assert result.last_log_prob[i] == pytest.approx(alone[-1][0], abs=1e-5)
        assert result.greedy[i] == all(hit for _, hit in alone)
        assert result.last_greedy[i] == alone[-1][1]
        assert result.tokens[i] == len(ending.encode())
        assert result.bytes[i] == len(ending.encode()) - 1
    assert result.per_token == pytest.approx(result.log_prob / result.tokens)
    assert result.per_byte == pytest.approx(result.log_prob / result.bytes)


def test_greedy_marks_what_the_model_would_say(decoder, tokenizer):
    for letter in "abcdefghijklmnopqrstuvwxyz":
        with torch.no_grad():
            first = int(decoder.eval()(torch.tensor([[tokenizer.end_of_text, ord(letter)]]))[0, -1].argmax())
        if chr(first).isascii() and chr(first).isalpha():
            break

    result = choose(decoder, tokenizer, letter, [chr(first), "~"])

    assert result.greedy.tolist() == result.last_greedy.tolist() == [True, False]
    assert result.log_prob.argmax() == 0


def test_a_context_that_does_not_fit_is_cut_at_its_left(decoder, tokenizer):
    """The model takes 12 tokens: 8 of the context stand before an ending of 5."""
    long = choose(decoder, tokenizer, "x" * 50 + "remember", [" this"])
    short = choose(decoder, tokenizer, "y" * 20 + "remember", [" this"])

    assert long.log_prob == pytest.approx(short.log_prob, abs=1e-6)
    alone = list(ending_alone(decoder, tokenizer, "remember", " this"))
    assert long.log_prob[0] == pytest.approx(sum(p for p, _ in alone), abs=1e-5)


def test_an_ending_longer_than_the_context_is_scored_whole(decoder, tokenizer):
    ending = " and so it goes on and on and on"

    result = choose(decoder, tokenizer, "Once", [ending, " no"])

    ids = packed(tokenizer, "Once" + ending)[:-1]
    before = score_ids(decoder, ids[:5], tokenizer.bytes_of)
    whole = score_ids(decoder, ids, tokenizer.bytes_of, stride=CONTEXT // 2)
    assert result.tokens.tolist() == [len(ending), 3]
    assert -result.log_prob[0] == pytest.approx(whole.nats - before.nats, rel=1e-5)


def test_a_blank_at_the_end_of_the_context_goes_to_the_endings():
    """` sea` is one token; a context that ends in a blank must not make it two."""
    bpe = train_bpe(iter(["the sea the sand the sea"] * 50), 267)
    model = randomised("gpt2", bpe.vocab)

    with_blank = choose(model, bpe, "the ", ["sea", "sand"])
    without = choose(model, bpe, "the", [" sea", " sand"])

    assert with_blank.log_prob == pytest.approx(without.log_prob, abs=1e-6)
    assert with_blank.tokens.tolist() == without.tokens.tolist()


def test_endings_that_merge_with_the_context_are_scored_from_the_same_place():
    """`th` + `e` is one token `the`, `th` + `y` is not: both are scored from where `th` begins."""
    bpe = train_bpe(iter(["the then there the"] * 50), 264)
    model = randomised("gpt2", bpe.vocab)
    assert len(bpe.encode("the")) == 1 < len(bpe.encode("thy"))

    result = choose(model, bpe, "th", ["e", "y"])

    for i, word in enumerate(("the", "thy")):
        alone = list(ending_alone(model, bpe, "", word))
        assert result.log_prob[i] == pytest.approx(sum(p for p, _ in alone), abs=1e-5)


def test_questions_are_answered_in_their_order(decoder, tokenizer):
    questions = [(f"Q{i}" * (1 + i % 3), [" yes", " no" * (1 + i % 2)][: 1 + i % 2]) for i in range(9)]

    together = list(score_endings(decoder, tokenizer, iter(questions), rows=1))

    for (context, endings), result in zip(questions, together, strict=True):
        assert result.log_prob == pytest.approx(choose(decoder, tokenizer, context, endings).log_prob, abs=1e-5)


def test_an_ending_without_text_is_refused(decoder, tokenizer):
    with pytest.raises(Invalid, match="Ending 2 of 2"):
        choose(decoder, tokenizer, "Yes", [" or", "  "])
