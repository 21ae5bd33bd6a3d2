"""The family's own image processor, always the one for Pillow, and only one that cuts as the tower does."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from dougong.data.chats.image_processor import ImageProcessor, open_processor
from dougong.data.chats.parts import ImageName
from dougong.errors import DataError
from PIL import Image
from tests.pictures import PATCH, PROCESSORS, picture, write_processor

AUTO_MAP = {"AutoImageProcessor": "own.Own"}
VISION = SimpleNamespace(spatial_merge_size=2, patch_size=PATCH, temporal_patch_size=2)


def opened(folder: Path, family: str = "qwen3_vl_moe") -> ImageProcessor:
    write_processor(folder, family)
    return open_processor([folder / "none", folder], VISION)


def patches(processor: ImageProcessor, path: Path):
    return processor.patches(ImageName(path.parent / "a.jsonl", "line 2", path.name), path.read_bytes())


@pytest.mark.parametrize("family", PROCESSORS)
def test_patches_are_those_of_transformers_for_pillow(family: str, tmp_path: Path) -> None:
    processor, path = opened(tmp_path, family), picture(tmp_path / "a.png", 30, 20)
    assert type(processor.model).__name__.endswith("Pil")
    found = patches(processor, path)
    expected = processor.model(images=[Image.open(path)], return_tensors="np")
    assert np.array_equal(found.pixels, expected["pixel_values"]) and found.pixels.dtype == np.float32
    assert list(found.grid) == expected["image_grid_thw"][0].tolist()
    assert processor.num_tokens(found.grid) * 4 == len(found.pixels)


def test_digests_tell_other_pixels_and_other_settings(tmp_path: Path) -> None:
    processor, path = opened(tmp_path), picture(tmp_path / "a.png")
    first, again = patches(processor, path), patches(opened(tmp_path), path)
    assert first.digest() == again.digest() and processor.digest == opened(tmp_path).digest
    assert patches(processor, picture(tmp_path / "b.png", seed=1)).digest() != first.digest()
    assert opened(tmp_path, "glm4v_moe").digest != processor.digest


def test_a_shape_that_it_does_not_take_is_refused_with_the_row(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 900, 2)
    with pytest.raises(DataError, match=r"a.jsonl: line 2: .*a.png: 900 x 2 pixels; .*aspect ratio.*cut the image, or"):
        patches(opened(tmp_path), path)


def test_a_folder_without_one_is_refused_with_what_to_do(tmp_path: Path) -> None:
    rule = "a preprocessor_config.json, which says how images are cut; copy it from"
    with pytest.raises(DataError, match=f"data.chat: neither {tmp_path} nor {tmp_path}/other has {rule}"):
        open_processor([tmp_path, tmp_path / "other"], VISION)
    with pytest.raises(DataError, match=f"data.chat: {tmp_path} does not have {rule}"):
        open_processor([tmp_path], VISION)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(DataError, match=f"{tmp_path}: transformers finds no image processor here") as caught:
        open_processor([tmp_path], VISION)
    assert len(str(caught.value)) < 350 + len(str(tmp_path))


def test_one_of_another_kind_or_size_is_refused_with_both(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"}))
    with pytest.raises(DataError, match="CLIPImageProcessorPil gives pixel_values, where the model takes image_"):
        open_processor([tmp_path], VISION)
    write_processor(tmp_path, "qwen3_vl_moe")
    other = SimpleNamespace(spatial_merge_size=2, patch_size=16, temporal_patch_size=2)
    with pytest.raises(DataError, match=f"has patch_size {PATCH}, where the model's vision_config has patch_size 16"):
        open_processor([tmp_path], other)


WRONG = [
    ("[]", r"preprocessor_config.json: holds \[\], where settings are a JSON object; copy"),
    ("{", "preprocessor_config.json: is not JSON .*; copy preprocessor_config.json from the model's own folder"),
    ({"image_std": [0, 0, 0]}, r"makes pixels that are no finite numbers \(image_mean .* image_std \(0, 0, 0\), "),
    ({"image_std": [1]}, "Pil cuts no image with its settings here .*std must have 3 elements.*; copy"),
    ({"size": {"height": 3, "width": 4}}, "Pil cuts no image with its settings here .*'shortest_edge'"),
    (
        {"size": {"shortest_edge": 1024, "longest_edge": 512}},
        r"of at least 1024 \(size.shortest_edge\) and at most 512 pixels \(size.longest_edge\); change the two",
    ),
]


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=[case[1][:40] for case in WRONG])
def test_settings_that_make_no_pixels_are_refused_by_their_folder(
    settings: str | dict[str, object], message: str, tmp_path: Path
) -> None:
    write_processor(tmp_path, "qwen3_vl_moe")
    file = tmp_path / "preprocessor_config.json"
    if isinstance(settings, dict):
        settings = json.dumps({**json.loads(file.read_text()), **settings})
    file.write_text(settings)
    with pytest.raises(DataError, match=f"data.chat: {tmp_path}.*{message}"):
        open_processor([tmp_path], VISION)


def test_no_code_of_a_processors_folder_runs(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    for kind, asked in (("Own", DataError), ("Qwen2VLImageProcessorFast", None)):
        write_processor(tmp_path, "qwen3_vl_moe")
        file = tmp_path / "preprocessor_config.json"
        settings = {**json.loads(file.read_text()), "image_processor_type": kind, "auto_map": AUTO_MAP}
        file.write_text(json.dumps(settings))
        if asked is None:
            assert type(open_processor([tmp_path], VISION).model).__name__ == "Qwen2VLImageProcessorPil"
        else:
            with pytest.raises(asked, match="transformers finds no image processor here"):
                open_processor([tmp_path], VISION)
        assert not (tmp_path / "ran").exists()
