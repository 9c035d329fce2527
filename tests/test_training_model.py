"""The decoder against transformers: logits, documents in a row, checkpoints, and the key/value cache."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.training_common import make
from training.attention import document_positions, document_segments, row_mask
from training.checkpoint import load_model, save_model
from training.inference.cache import KeyValueCache
from training.knobs import TrainingError
from training.loss import IGNORED
from training.model import Decoder, ModelConfig


def shape(**changes) -> ModelConfig:
    values = dict(vocab_size=97, context_length=48, layers=2, width=32, heads=4, kv_heads=2, mlp_width=56, head_width=8)
    return ModelConfig(**{**values, **changes})


def random_model(config: ModelConfig) -> Decoder:
    """Weights that are far from the initial ones, norms included, so that every part matters."""
    model = Decoder(config).initialise(3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def tokens(rows: int, length: int, vocab: int = 97) -> torch.Tensor:
    return torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(1))


# numbers as a packer gives them: several documents, one of a single token, padding at the end
DOCUMENTS = torch.tensor([[0] * 7 + [1] + [2] * 12 + [3] * 12, [5] * 20 + [6] * 4 + [-1] * 8])


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory):
    return make(tmp_path_factory.mktemp("tokenizer"), documents=40)[1]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("heads", [(4, 2, 8), (4, 4, 8), (4, 1, 16)])
def test_transformers_loads_the_folder_and_its_logits_are_ours(tied, heads, tmp_path, tokenizer_dir):
    config = shape(tie_embeddings=tied, heads=heads[0], kv_heads=heads[1], head_width=heads[2], rope_theta=500.0)
    model = random_model(config)
    save_model(tmp_path, model, tokenizer_dir, eos_id=0)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert theirs.dtype == torch.float32
    x = tokens(2, 32)
    with torch.no_grad():
        assert torch.allclose(theirs(x).logits, model(x), atol=1e-4, rtol=0)
    assert theirs.generation_config.eos_token_id == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.decode(tokenizer("the miller grinds")["input_ids"]) == "the miller grinds"


def test_transformers_reads_both_spellings_of_the_rotary_base(tmp_path, tokenizer_dir):
    """`rope_theta` alone (version 4) and `rope_parameters` alone (version 5) must each be enough."""
    model = random_model(shape(rope_theta=250.0))
    save_model(tmp_path, model, tokenizer_dir, eos_id=0)
    written = json.loads((tmp_path / "config.json").read_text())
    x = tokens(1, 32)
    for left_out in (["rope_theta"], ["rope_parameters"]):
        (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in written.items() if k not in left_out}))
        with torch.no_grad():
            assert torch.allclose(AutoModelForCausalLM.from_pretrained(tmp_path)(x).logits, model(x), atol=1e-4, rtol=0)
            assert torch.equal(load_model(tmp_path, torch.device("cpu"))[0](x), model(x))


def test_folder_of_transformers_is_read(tmp_path):
    config = LlamaConfig(
        vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=3, max_position_embeddings=32, eos_token_id=[7, 9], tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 123.0},
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    ours, end = load_model(tmp_path, torch.device("cpu"))
    assert end == [7, 9]
    x = tokens(2, 16, 50)
    with torch.no_grad():
        assert torch.allclose(theirs(x).logits, ours(x), atol=1e-4, rtol=0)


def test_documents_of_a_row_do_not_see_each_other(tmp_path, tokenizer_dir):
    """Equal to separate forwards, and to transformers given position ids that restart in each document."""
    model = random_model(shape())
    save_model(tmp_path, model, tokenizer_dir, eos_id=0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    x = tokens(2, 32)
    with torch.no_grad():
        packed, blind = model(x, documents=DOCUMENTS), model(x)
        for row in range(2):
            for number in DOCUMENTS[row].unique():
                where = DOCUMENTS[row] == number
                alone = model(x[row][where][None])[0]
                assert torch.allclose(packed[row][where], alone, atol=1e-5, rtol=0)
            oracle = theirs(
                x[row][None], position_ids=document_positions(DOCUMENTS)[row][None], use_cache=False
            ).logits[0]
            assert torch.allclose(packed[row], oracle, atol=1e-4, rtol=0)
    assert not torch.allclose(packed, blind, atol=1e-2)  # the mask does something


def test_positions_and_mask_by_hand():
    documents = torch.tensor([[4, 4, 9, 9, 9, 4, -1]])
    assert document_positions(documents).tolist() == [[0, 1, 0, 1, 2, 0, 0]]
    mask = row_mask(document_segments(documents), 7, None, documents.device)[0, 0]
    seen = {0: [0], 1: [0, 1], 2: [2], 3: [2, 3], 4: [2, 3, 4], 5: [5], 6: [6]}  # the second 4 is another document
    assert {q: mask[q].nonzero()[:, 0].tolist() for q in range(7)} == seen


def test_loss_is_that_of_the_logits_and_nothing_where_ignored():
    model, x = random_model(shape()), tokens(2, 16)
    targets = x.roll(-1, 1)
    targets[:, -1] = IGNORED
    with torch.no_grad():
        nll, logits = model(x, targets).nll, model(x)
    assert (nll[:, -1] == 0).all()
    expected = -logits.log_softmax(-1)[:, :-1].gather(-1, targets[:, :-1, None])[..., 0]
    assert torch.allclose(nll[:, :-1], expected, atol=1e-5)


def test_cache_gives_the_logits_of_the_whole_prefix():
    model, x = random_model(shape()), tokens(3, 24)
    cache = KeyValueCache(model.config, 3, 24, x.device, torch.float32)
    with torch.no_grad():
        whole = model(x)
        pieces = [model(x[:, a:b], cache=cache) for a, b in ((0, 9), (9, 10), (10, 14), (14, 24))]
    assert torch.allclose(torch.cat(pieces, 1), whole, atol=1e-5)


def test_initial_weights_are_private_to_the_seed():
    torch.manual_seed(0)
    first = Decoder(shape()).initialise(5).state_dict()
    torch.manual_seed(1)
    again, other = Decoder(shape()).initialise(5).state_dict(), Decoder(shape()).initialise(6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(first[name], other[name])
    assert first[name].std() == pytest.approx(0.02, rel=0.1)
    assert first["model.layers.0.mlp.down_proj.weight"].std() == pytest.approx(0.01, rel=0.1)


def test_bfloat16_computes_in_bfloat16_with_float32_weights():
    model = random_model(shape())
    half = Decoder(shape(), torch.bfloat16)
    half.load_state_dict(model.state_dict())
    x = tokens(2, 16)
    with torch.no_grad():
        full, low = model(x), half(x)
    assert low.dtype == torch.float32 and not torch.equal(full, low)
    assert torch.allclose(full, low, atol=0.25)
    half(x, x).objective.backward()
    assert all(parameter.grad.dtype == parameter.dtype == torch.float32 for parameter in half.parameters())


def test_broken_folders_are_refused_by_name(tmp_path, tokenizer_dir):
    save_model(tmp_path, random_model(shape()), tokenizer_dir, eos_id=0)
    config = json.loads((tmp_path / "config.json").read_text())

    def refused(**changes) -> str:
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(TrainingError) as error:
            load_model(tmp_path, torch.device("cpu"))
        return str(error.value)

    assert "BloomForCausalLM" in refused(architectures=["BloomForCausalLM"])
    assert "longrope" in refused(rope_parameters={"rope_type": "longrope", "rope_theta": 1e4})
    assert "hidden_act gelu" in refused(hidden_act="gelu")
    assert "self_attn.q_proj.bias" in refused(attention_bias=True)
    assert "factor: Field required" in refused(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4})
    assert "embed_tokens.weight is [97, 32], expected [98, 32]" in refused(vocab_size=98)
    assert "layers.2" in refused(num_hidden_layers=3)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:1000])
    assert "model.safetensors" in refused()
