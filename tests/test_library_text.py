"""Pictures of the library found by words, with a small CLIP of random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from paint_by_example import PaintByExamplePipeline
from paint_by_example.cli import main
from paint_by_example.errors import ModelError
from paint_by_example.library import Added, Library, TextEncoder, add_pictures, find_exemplars, find_words
from tests import tiny

SIDE, TOKENS = 32, 16


def save_clip(folder: Path, seed: int) -> Path:
    """A CLIP model that spells."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    body: dict[str, Any] = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "max_position_embeddings": TOKENS}
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config={**body, **ends, "vocab_size": len(words)},
        vision_config={**body, "image_size": SIDE, "patch_size": 8},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(words)}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SIDE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"), 0)


@pytest.fixture(scope="module")
def painter() -> PaintByExamplePipeline:
    """Not to be changed."""
    return tiny.embedded_pipeline()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        tiny.picture(40 + number, 30, seed=number).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


def test_words_rank_pictures_as_the_model_itself_does(
    folder: Path, tmp_path: Path, clip: Path, painter: PaintByExamplePipeline
) -> None:
    encoder = TextEncoder(str(clip))
    add_pictures(tmp_path / "library", painter, [folder], text=encoder)
    pictures = [Image.open(folder / f"{number}.png") for number in range(4)]
    model, text = CLIPModel.from_pretrained(clip).eval(), "red chair" * 9  # longer than there is room for
    tokens = encoder.tokenizer([text], truncation=True, max_length=TOKENS, return_tensors="pt")
    with torch.no_grad():
        pixels = encoder.processor(images=pictures, return_tensors="pt")["pixel_values"]
        logits = model(pixel_values=pixels, **tokens).logits_per_text[0].numpy() / model.logit_scale.exp().item()
    with Library(tmp_path / "library") as library:
        found = find_exemplars(library, 3, words=find_words(library, text, encoder))
        assert [one.entry.id for one in found] == list(np.argsort(-logits)[:3])
        np.testing.assert_allclose([one.score for one in found], np.sort(logits)[::-1][:3], atol=1e-5)


def test_pictures_of_before_are_found_once_they_are_added_again(
    folder: Path, tmp_path: Path, clip: Path, painter: PaintByExamplePipeline
) -> None:
    place, encoder = tmp_path / "library", TextEncoder(str(clip))
    add_pictures(place, painter, [folder], tags=["all"])
    with Library(place) as library, pytest.raises(ModelError, match="cannot be searched by text"):
        find_words(library, "chair", encoder)
    add_pictures(place, painter, [folder / "1.png"], text=encoder, tags=["one"])
    with Library(place) as library:
        words = find_words(library, "chair", encoder)
        assert [one.entry.id for one in find_exemplars(library, 9, words=words)] == [1]
        assert find_exemplars(library, 9, words=words, tags=["none"]) == []
    tiny.picture(60, 30, seed=9).save(folder / "9.png")
    add_pictures(place, painter, [folder / "9.png"])  # without words
    assert add_pictures(place, painter, [folder], text=encoder) == Added(known=5)
    with Library(place) as library:
        assert len(find_exemplars(library, 9, words=words)) == 5
        for number in range(5):
            picture = Image.open(folder / f"{number if number < 4 else 9}.png")
            np.testing.assert_array_equal(library.texts()[number], encoder.picture(picture))


def test_what_an_interrupted_write_left_finds_nothing(
    folder: Path, tmp_path: Path, clip: Path, painter: PaintByExamplePipeline
) -> None:
    place, encoder = tmp_path / "library", TextEncoder(str(clip))
    add_pictures(place, painter, [folder], text=encoder)
    with (place / "texts.f32").open("ab") as file:
        file.write(np.ones(12, np.float32).tobytes())
    tiny.picture(60, 30, seed=9).save(folder / "9.png")
    add_pictures(place, painter, [folder])
    with Library(place) as library:
        assert not library.texts()[4].any()


def test_another_text_encoder_is_refused(
    folder: Path, tmp_path: Path, clip: Path, painter: PaintByExamplePipeline
) -> None:
    add_pictures(tmp_path / "library", painter, [folder], text=TextEncoder(str(clip)))
    other = TextEncoder(str(save_clip(tmp_path / "other", 1)))
    with pytest.raises(ModelError, match="was made with the text encoder"):
        add_pictures(tmp_path / "library", painter, [folder], text=other)
    with Library(tmp_path / "library") as library, pytest.raises(ModelError, match="was made with the text encoder"):
        find_words(library, "chair", other)
    with pytest.raises(ModelError, match="cannot use .* as a text encoder"):
        TextEncoder(str(folder), offline=True)


def test_the_command(
    folder: Path, tmp_path: Path, clip: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--library", str(tmp_path / "library")]
    add = ["library", "add", str(folder), "--model", str(models["embedded"]), "--offline", *place]
    search = ["library", "search", "--text", "red chair", "--offline", *place]
    assert main(add) == 0
    assert main(search) == 1
    assert "cannot be searched by text" in capsys.readouterr().err
    assert main([*add, "--text-encoder", str(clip)]) == 0
    tiny.picture(60, 30, seed=9).save(folder / "9.png")
    assert main(add) == 0  # the library knows its text encoder
    capsys.readouterr()
    assert main([*search, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 5
    assert lines == sorted(lines, key=lambda line: -line["score"])
    assert main([*search, "--like", "a.png"]) == 2
    assert "--text goes with --tag" in capsys.readouterr().err
    assert main(["library", "search", "--text", " ", *place]) == 1
    assert "the text is empty" in capsys.readouterr().err
