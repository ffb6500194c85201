"""The page's files: what is served and how, and that the words of both languages match."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import luopan.serve
from luopan.serve.page import page_router, static_files

STATIC = Path(luopan.serve.__file__).parent / "static"
SCRIPTS = sorted((STATIC / "js").rglob("*.js"))
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS)


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.include_router(page_router(SimpleNamespace(api_key="secret")))
    return TestClient(app)


def words(language: str) -> dict[str, str]:
    return json.loads((STATIC / "strings" / f"{language}.json").read_text(encoding="utf-8"))


def test_the_index_comes_with_a_policy_that_allows_nothing_inline(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'" and policy["frame-ancestors"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_no_file_has_inline_code_or_reaches_outside() -> None:
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script>|<style|style=|\son\w+=|https?://", html)
    styles = "".join(path.read_text(encoding="utf-8") for path in STATIC.rglob("*.css"))
    assert not re.search(r"@import|url\(", styles)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", SOURCE)
    addresses = set(re.findall(r"https?://[^\s\"'`<>)\]]+", SOURCE)) - {"http://www.w3.org/2000/svg"}
    assert not [address for address in addresses if re.match(r"https?://\w", address)]


def test_every_file_of_the_page_is_served_and_nothing_else(client: TestClient) -> None:
    on_disk = {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file()}
    assert on_disk == set(static_files())
    for name in on_disk:
        answer = client.get(f"/static/{name}")
        assert answer.status_code == 200 and answer.content == (STATIC / name).read_bytes()
        again = client.get(f"/static/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
    for name in (
        "../page.py",
        "..%2fpage.py",
        "%2e%2e/%2e%2e/errors.py",
        "/etc/passwd",
        "js",
        "",
        "js/../index.html%00",
    ):
        answer = client.get(f"/static/{name}")
        assert answer.status_code == 404, name
        assert "import" not in answer.text


def test_every_import_between_scripts_leads_to_a_name_that_is_exported() -> None:
    imports = 0
    for path in SCRIPTS:
        for given, target in re.findall(r"^import (.+?) from \"(.+?)\";", path.read_text(encoding="utf-8"), re.M):
            file = (path.parent / target).resolve()
            assert file.is_file(), f"{path}: {target}"
            exported = set(
                re.findall(r"^export (?:async )?(?:function|const|class) (\w+)", file.read_text("utf-8"), re.M)
            )
            names = re.findall(r"\w+", given) if given.startswith("{") else []
            assert set(names) <= exported, f"{path}: {set(names) - exported}"
            imports += 1
    assert imports > 60


def test_both_languages_have_the_same_keys_and_the_same_blanks() -> None:
    english, chinese = words("en"), words("zh")
    assert list(english) == list(chinese)
    for key in english:
        assert set(re.findall(r"\{\w+\}", english[key])) == set(re.findall(r"\{\w+\}", chinese[key])), key
        assert english[key].strip() and chinese[key].strip(), key
    foreign = [k for k, v in chinese.items() if not re.search(r"[\u4e00-\u9fff]", v) and v == english[k]]
    assert set(foreign) <= {"param.top_p", "param.top_k", "param.min_p"}, foreign


def test_every_key_that_is_used_has_words_and_every_word_is_used() -> None:
    english = words("en")
    literal = set(re.findall(r"\"([a-z]\w*(?:\.[\w-]+)+)\"", SOURCE))
    built = re.findall(r"t\(`([^`]*)`\)", SOURCE)
    assert len(built) > 8
    patterns = [re.compile(re.sub(r"\\\$\\\{.*?\\\}", r"[\\w-]+", re.escape(p))) for p in built]
    asked = set(re.findall(r"\bt\(\"([^\"]+)\"", SOURCE)) | {
        k for k in literal if k.split(".")[0] in {"keys", "json", "chart"}
    }
    assert asked <= set(english), asked - set(english)
    unused = [k for k in english if k not in literal and not any(p.fullmatch(k) for p in patterns)]
    assert not unused


def test_the_suites_are_sound_and_alike() -> None:
    suites = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (STATIC / "suites").glob("*.json")}
    assert set(suites) == {"everyday-en", "everyday-zh"}
    english, chinese = (suites[name]["prompts"] for name in ("everyday-en", "everyday-zh"))
    assert [len(p["turns"]) for p in english] == [len(p["turns"]) for p in chinese]
    assert any(len(p["turns"]) > 1 for p in english) and any("system" in p for p in english)
    for name, suite in suites.items():
        assert suite["name"] == name and len({p["title"] for p in suite["prompts"]}) == len(suite["prompts"]) == 12


def test_the_page_is_told_whether_a_key_is_needed(client: TestClient) -> None:
    assert client.get("/page.json").json()["key_needed"] is True


def test_modules_stay_small() -> None:
    long = {path.name: n for path in SCRIPTS if (n := path.read_text("utf-8").count("\n")) > 400}
    assert not long
