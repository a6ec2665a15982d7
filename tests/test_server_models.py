"""Models that are not this package's own, on small random weights, and Lama Cleaner's names for them."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
)
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from paint_by_example.errors import ModelError
from paint_by_example.server.erasing import LAMA_SIDE, Lama, Telea
from paint_by_example.server.messages import Settings
from paint_by_example.server.models import GONE, OLD_ON_THE_HUB, Loading, Shelf
from paint_by_example.server.painting import Cancelled, Part, Progress, Work
from paint_by_example.server.prompting import PromptedModel
from tests import tiny

CPU = torch.device("cpu")
OLD_FLAGS = (
    *("--host", "--port", "--model", "--no-half", "--cpu-offload", "--disable-nsfw", "--sd-cpu-textencoder"),
    *("--local-files-only", "--enable-xformers", "--device", "--gui", "--gui-size", "--no-gui-auto-close", "--input"),
    *("--output-dir", "--model-dir", "--disable-model-switch", "--config-installer", "--load-installer-config"),
    "--installer-config",
)
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.(script|save):DeprecationWarning")
BOX = (10, 8, 34, 30)


def work(width: int = 60, height: int = 48, mode: str = "RGB", **settings: Any) -> Work:
    mask = np.zeros((height, width), bool)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    return Work(
        tiny.picture(width, height, mode),
        "room.png",
        [Part(BOX, mask, [], [], None)],
        Settings.model_validate(settings),
    )


def only_inside_changed(result: Any, asked: Work) -> None:
    before, after, mask = np.asarray(asked.source), np.asarray(result), asked.parts[0].mask
    assert before.shape == after.shape
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert (after[mask] != before[mask]).mean() > 0.3


# --- erasing ----------------------------------------------------------------------------------------------------------


class Filler(nn.Module):
    """What LaMa's file holds, in small: a convolution of picture and mask, kept within [0, 1], pasted into the hole."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        if image.shape[2] % 8 != 0 or image.shape[3] % 8 != 0:
            raise ValueError("sides must be multiples of 8")
        filled = torch.sigmoid(self.layer(torch.cat([image * (1 - mask), mask], dim=1)))
        return filled * mask + image * (1 - mask)


@pytest.fixture(scope="module")
def lama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("lama") / "big-lama.pt"
    torch.jit.script(Filler()).save(path)
    return path


@pytest.mark.parametrize("size", [(60, 48), (33, 35), (400, 900)])
def test_lama_from_a_torchscript_file(lama: Path, size: tuple[int, int]) -> None:
    asked = work(*size, seeds=[0, 1])
    steps: list[Progress] = []
    made = Lama(lama, CPU).edit(asked, steps.append)
    assert [one.seed for one in made] == [0, 1]
    only_inside_changed(made[0].picture, asked)
    assert [(step.step, step.steps) for step in steps] == [(1, 1)]


def test_lama_sees_large_regions_smaller(lama: Path) -> None:
    asked = work(1500, 1400)
    asked.parts[0].mask[50:1300, 50:1300] = True
    seen = []
    model = Lama(lama, CPU)
    script = model.script

    def recorded(image: Tensor, mask: Tensor) -> Any:
        seen.append(tuple(image.shape))
        return script(image, mask)

    model.script = recorded
    only_inside_changed(model.edit(asked, lambda progress: None)[0].picture, asked)
    assert seen == [(1, 3, LAMA_SIDE, LAMA_SIDE)]


def test_what_is_no_torchscript_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "lama.pt").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot read lama.pt: it is no TorchScript file"):
        Lama(tmp_path / "lama.pt", CPU)
    torch.save({"state_dict": torch.zeros(2)}, tmp_path / "weights.pt")  # a pickle of weights, which is not run
    with pytest.raises(ModelError, match="cannot read weights.pt"):
        Lama(tmp_path / "weights.pt", CPU)


def test_the_fill_takes_only_what_is_around() -> None:
    asked = work(mode="RGBA")
    picture = np.asarray(asked.source).copy()
    picture[..., :3] = (200, 100, 50)
    picture[BOX[1] : BOX[3], BOX[0] : BOX[2], :3] = (0, 255, 0)
    asked = Work(Image.fromarray(picture), asked.name, asked.parts, asked.settings)
    made = Telea().edit(asked, lambda progress: None)
    filled = np.asarray(made[0].picture)
    assert made[0].picture.mode == "RGBA"
    assert np.abs(filled[..., :3].astype(int) - (200, 100, 50)).max() <= 3  # nothing of the green is left
    np.testing.assert_array_equal(filled[..., 3], picture[..., 3])


def test_the_fill_of_everything_leaves_it() -> None:
    asked = work()
    asked.parts[0].mask[:] = True
    made = Telea().edit(asked, lambda progress: None)
    np.testing.assert_array_equal(np.asarray(made[0].picture), np.asarray(asked.source))


# --- prompts ----------------------------------------------------------------------------------------------------------


def text_parts() -> tuple[CLIPTextModel, CLIPTokenizer]:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=16)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    return CLIPTextModel(config).eval(), tokenizer


def save_prompted(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    encoder, tokenizer = text_parts()
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
    )
    unet = tiny.unet(latent_channels=4, sample_size=16, condition_size=24)
    if kind == "instruct":
        unet = type(unet).from_config({**unet.config, "in_channels": 8})
    loader = StableDiffusionInpaintPipeline if kind == "prompt" else StableDiffusionInstructPix2PixPipeline
    loader(
        vae=vae.eval(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory, lama: Path) -> Path:
    """A folder of models as `--model-dir` takes it."""
    folder = tmp_path_factory.mktemp("models")
    save_prompted(folder / "sd1.5", "prompt")
    save_prompted(folder / "instruct_pix2pix", "instruct")
    (folder / "big-lama.pt").write_bytes(lama.read_bytes())
    (folder / "notes").mkdir()
    tiny.clip_pipeline().save_pretrained(folder / "mine")
    return folder


@pytest.mark.parametrize("name", ["sd1.5", "instruct_pix2pix"])
@pytest.mark.parametrize("text_on_cpu", [False, True])
def test_models_that_are_told_what_to_paint(prompted: Path, name: str, text_on_cpu: bool) -> None:
    shelf = Shelf(name, prompted, Loading(text_on_cpu=text_on_cpu))
    model = shelf.load(name, CPU)
    assert (model.kind, model.image_size) == ("prompt" if name == "sd1.5" else "instruct", 32)
    steps: list[Progress] = []
    asked = work(prompt="a red chair", negative_prompt="blur", steps=4, seeds=[1, 2], scheduler="ddim")
    made = model.edit(asked, steps.append)
    assert [one.seed for one in made] == [1, 2]
    for one in made:
        only_inside_changed(one.picture, asked)
    assert (np.asarray(made[0].picture) != np.asarray(made[1].picture)).any()
    assert [step.step for step in steps] == list(range(1, 9))
    alone = model.edit(work(prompt="a red chair", negative_prompt="blur", steps=4, seeds=[2], scheduler="ddim"), print)
    np.testing.assert_array_equal(np.asarray(alone[0].picture), np.asarray(made[1].picture))
    other = model.edit(work(prompt="zzz", negative_prompt="blur", steps=4, seeds=[2], scheduler="ddim"), print)
    assert (np.asarray(other[0].picture) != np.asarray(made[1].picture)).any()


def test_the_text_encoder_s_place_changes_nothing(prompted: Path) -> None:
    pictures = []
    for text_on_cpu in (False, True):
        model = Shelf("sd1.5", prompted, Loading(text_on_cpu=text_on_cpu)).load("sd1.5", CPU)
        pictures.append(np.asarray(model.edit(work(prompt="a chair", steps=3), lambda progress: None)[0].picture))
    np.testing.assert_array_equal(pictures[0], pictures[1])


def test_a_prompted_edit_is_cancelled_from_within(prompted: Path) -> None:
    model = Shelf("sd1.5", prompted).load("sd1.5", CPU)

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        model.edit(work(prompt="a chair", steps=5), stop)


def test_a_model_without_weights_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load sd2 with diffusers from"):
        PromptedModel(tmp_path, "sd2", "prompt", CPU, torch.float32, local_files_only=True)
    with pytest.raises(ModelError, match="leave --local-files-only out once"):
        PromptedModel("nobody/nothing", "sd2", "prompt", CPU, torch.float32, local_files_only=True)


# --- names ------------------------------------------------------------------------------------------------------------


def test_the_shelf_holds_what_is_in_the_folder(prompted: Path) -> None:
    shelf = Shelf("embedded", prompted)
    assert {name: one.kind for name, one in shelf.models.items()} == {
        "embedded": "exemplar",
        "cv2": "erase",
        "instruct_pix2pix": "instruct",
        "lama": "erase",
        "mine": "exemplar",
        "sd1.5": "prompt",
    }
    assert shelf.load("mine", CPU).kind == "exemplar"
    assert {one.name for one in shelf.listed({"mine"}) if one.loaded} == {"mine"}


def test_lama_is_found_where_lama_cleaner_left_it(lama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelError, match=r"put big-lama\.pt into --model-dir"):
        Shelf("lama")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "big-lama.pt").write_bytes(lama.read_bytes())
    assert Shelf("lama").load("lama", CPU).kind == "erase"


@pytest.mark.parametrize("name", sorted(GONE))
def test_names_that_are_gone_say_who_has_them(name: str) -> None:
    with pytest.raises(ModelError, match=f"IOPaint still has it: iopaint start --model {name}"):
        Shelf(name)


@pytest.mark.parametrize("name", sorted(OLD_ON_THE_HUB))
def test_names_of_the_hub_are_its_repositories(name: str) -> None:
    shelf = Shelf(name)
    source, kind = OLD_ON_THE_HUB[name]
    assert (shelf.models[name].source, shelf.models[name].kind) == (source, kind)
    assert "/" in source


@pytest.mark.parametrize("name", ["nonsense", "./nowhere", "/nowhere/at/all"])
def test_a_name_that_is_none_says_what_there_is(name: str) -> None:
    with pytest.raises(ModelError, match=r"no model .*; give embedded, .*cv2, lama, paint_by_example"):
        Shelf(name)


def test_a_folder_without_a_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no model"):
        Shelf(str(tmp_path))
    with pytest.raises(ModelError, match="--model-dir takes a folder"):
        Shelf("embedded", tmp_path / "nowhere")


def test_the_table_of_old_names_is_complete() -> None:
    text = (Path(__file__).parents[1] / "docs" / "from-lama-cleaner.md").read_text()
    named = set(re.findall(r"^\| `([^`]+)`", text, re.M))
    assert {"lama", "cv2", *GONE, *OLD_ON_THE_HUB} <= named
    for flag in OLD_FLAGS:
        assert flag in named, flag
