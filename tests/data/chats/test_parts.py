"""Messages in parts: what is none is refused by its place, and images are named from the chat file's folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from dougong.data.chats.parts import IMAGE, named_images, read_parts
from dougong.data.chats.rows import chat_files, find_images
from dougong.errors import DataError
from tests.chats import many, row, write_chats
from tests.data.chats.test_rows import rows_of
from tests.pictures import look

TEXT = {"type": "text", "text": "a"}


def content_row(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "b"}], **more}


def test_parts_are_what_templates_take() -> None:
    found = read_parts(
        "a.jsonl: line 1: messages[0].content",
        [TEXT, {"type": "image", "image": "a.png", "text": None}, {"type": "image_url", "image_url": {"url": "b.png"}}],
    )
    assert found.parts == (TEXT, IMAGE, IMAGE)
    assert [name for _, name in found.images] == ["a.png", "b.png"]


WRONG = [
    ([], "messages[0].content: is an empty list"),
    ([1], 'messages[0].content[0]: must be {"type": "text"'),
    (
        [TEXT, {"type": "video", "video": "a.mp4"}],
        'messages[0].content[1].type: "video" is none of text, image, image_url; take the part out',
    ),
    ([{"type": "text", "text": 7}], "messages[0].content[0].text: holds int; it must be text"),
    ([{"type": "image", "image": 7}], "messages[0].content[0].image: holds 7; it must be the path of an image"),
    ([{"type": "image", "image": "a.png", "path": "b.png"}], "names an image by image and by path; leave one"),
    (
        [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}],
        "messages[0].content[0].image_url: https://example.org/a.png: is a URL, and nothing is fetched while a model "
        "is trained; download it and give its path",
    ),
    (
        [{"type": "image", "image": "file:///a%20b/c.png"}],
        "messages[0].content[0].image: file:///a%20b/c.png: is a URL of a file on this machine; give its path, "
        "/a b/c.png",
    ),
    (
        [{"type": "image", "image": "a.png", "max_pixels": 4096}],
        "messages[0].content[0].max_pixels: is not read: all images are cut as the model's preprocessor_config.json",
    ),
    (
        [{"type": "image", "image": {"path": "a.png", "bytes": "aGk="}}],
        "messages[0].content[0].image.bytes: is not read; write the bytes into a file and give its path, or write",
    ),
    ([{"type": "image"}], "1 parts of type image have no name (the first: messages[0].content[0])"),
]


@pytest.mark.parametrize(("content", "message"), WRONG, ids=[case[1][:50] for case in WRONG])
def test_what_is_no_part_is_refused_by_its_place(content: Any, message: str, tmp_path: Path) -> None:
    write_chats(tmp_path / "a.jsonl", [row("a", "b"), content_row(content)])
    with pytest.raises(DataError, match=f"a.jsonl: line 2: .*{re.escape(message)}"):
        rows_of([tmp_path / "a.jsonl"])


def test_a_row_may_name_its_images_beside_its_messages(tmp_path: Path) -> None:
    two = content_row(
        [{"type": "image"}, TEXT, {"type": "image"}], images=["x/1.png", {"path": "2.png", "bytes": None}]
    )
    write_chats(tmp_path / "a.jsonl", [two])
    (chat,) = rows_of([tmp_path / "a.jsonl"])
    assert [one.path for one in chat.images] == [tmp_path / "x/1.png", tmp_path / "2.png"]
    assert [one.part for one in chat.images] == [f"line 1: messages[0].content[{n}]" for n in (0, 2)]


def test_names_that_are_too_many_or_have_no_place_are_refused() -> None:
    with pytest.raises(DataError, match=r"line 4: images names 1, but no message has a part .*<image> within a text"):
        list(named_images("a.jsonl: line 4", [], ["a.png"], Path("a.jsonl")))
    own = [("a.jsonl: line 4: messages[0].content[0]", "b.png")]
    with pytest.raises(DataError, match=r"line 4: 0 parts of type image have no name \(none\), and images .* names 1;"):
        list(named_images("a.jsonl: line 4", own, ["a.png"], Path("a.jsonl")))
    with pytest.raises(DataError, match="line 4: images: holds str; it must be a list"):
        list(named_images("a.jsonl: line 4", [], "a.png", Path("a.jsonl")))


def test_images_are_found_without_reading_other_rows(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    write_chats(tmp_path / "a.jsonl", [*many(3), look("a.png", "and", "/b.png")])
    hidden = json.dumps(look("c.png")).replace('"image"', '"\\u0069mage"')
    (tmp_path / "b/b.jsonl").write_text(f"{{no JSON and no such word\n{hidden}\n")
    found = list(find_images(chat_files(f"{tmp_path}/**/*.jsonl")))
    assert [one.path for one in found] == [tmp_path / "a.png", Path("/b.png"), tmp_path / "b/c.png"]
    assert found[2].words == f"{tmp_path}/b/b.jsonl: line 2: messages[0].content[0]: {tmp_path}/b/c.png"
