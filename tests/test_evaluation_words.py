"""The methods that are told in words, through diffusers, with models as small as can be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionInpaintPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from paint_by_example.errors import DataError, ModelError
from paint_by_example.evaluation.benchmark import Item
from paint_by_example.evaluation.stable_diffusion import text_method
from tests import tiny


def write_model(folder: Path, in_channels: int) -> Path:
    """Stable Diffusion in small, with a vocabulary of letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer = CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=[], model_max_length=77
    )
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=24,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
    )
    StableDiffusionInpaintPipeline(
        vae=tiny.sd_autoencoder().eval(),
        text_encoder=CLIPTextModel(config).eval(),
        tokenizer=tokenizer,
        unet=tiny.sd_unet(in_channels).eval(),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def item(side: int, text: str | None = "cat") -> Item:
    source = np.asarray(tiny.picture(side, side))
    mask = np.zeros((side, side), bool)
    mask[20:44, 16:40] = True
    return Item("0", source, mask, np.zeros((8, 8, 3), np.uint8), text=text)


@pytest.mark.parametrize(("name", "channels"), [("stable-diffusion-inpainting", 9), ("blended-diffusion", 4)])
def test_words_are_painted_inside_the_mask_and_nothing_else_changes(name: str, channels: int, tmp_path: Path) -> None:
    place = str(write_model(tmp_path, channels))
    method, settings = text_method(name, place, offline=True, device="cpu", steps=2)
    assert settings == {"method": name, "weights": place, "steps": 2, "guidance_scale": 7.5}
    for side in (64, 200):  # the model's own size, and a square cut out of a larger picture
        shown = item(side)
        first, again, other = (method([one], [seed])[0] for one, seed in ((shown, 0), (shown, 0), (shown, 1)))
        assert first.shape == shown.source.shape
        assert (first[~shown.mask] == shown.source[~shown.mask]).all()
        assert (first[shown.mask] != shown.source[shown.mask]).mean() > 0.5
        assert (first == again).all()
        assert (first != other).any()
    dog: Any = method([item(64, "dog")], [0])[0]
    assert (dog != method([item(64)], [0])[0]).any()  # the words count
    with pytest.raises(DataError, match="the benchmark has none for 0"):
        method([item(64, None)], [0])


def test_a_model_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    place = str(write_model(tmp_path, 4))
    with pytest.raises(ModelError, match="needs a U-Net of 9 input channels, and that of .* has 4"):
        text_method("stable-diffusion-inpainting", place, offline=True, device="cpu")


def test_weights_that_are_not_there_are_an_error_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="blended-diffusion cannot be had: ") as caught:
        text_method("blended-diffusion", str(tmp_path / "none"), offline=True)
    assert "\n" not in str(caught.value)
