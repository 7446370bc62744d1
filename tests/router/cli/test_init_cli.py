"""`evalrouter init` beside real and hostile servers: what it writes, and what it leaves alone."""

import json
import stat

import pytest
import tiny_gguf
from click.testing import CliRunner
from raw_host import READ, answer, raw_host
from tiny_llama_server import llama_server

from providers.compatible import CompatibleConfig
from providers.local_servers.discovery import LocalServer
from router.cli import main
from router.config.loading import load
from router.config.providers import KEY_VARIABLES
from router.config.template import FIRST_MODELS, first_config, first_model
from router.gateway.prices import PriceBook
from router.records import Target

CLEAN = dict.fromkeys([*KEY_VARIABLES.values(), "POSTGRES_HOST", "S3_BUCKET"])


def init(*args, code=0, **environ):
    done = CliRunner().invoke(main, ["init", *map(str, args)], env=CLEAN | environ)
    assert done.exit_code == code, done.output
    return done


def checked(path, **environ):
    done = CliRunner().invoke(main, ["config", "check", str(path)], env=CLEAN | environ)
    assert done.exit_code == 0, done.output
    return load(path, environ)


def test_an_empty_machine_gets_a_config_that_works(tmp_path):
    path = tmp_path / "evalrouter.yaml"
    done = init("--output", path, "--ports", "")
    config = checked(path)
    assert set(config.providers) == {"baseline", "hf"}
    assert config.routes["assistant"].targets[0].model == "baseline/lead-3"
    assert "no key of a provider" in done.stdout
    assert f"evalrouter serve --config {path}" in done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_keys_are_written_by_reference(tmp_path):
    path = tmp_path / "c.yaml"
    environ = {"OPENAI_API_KEY": "sk-secret-1", "GROQ_API_KEY": "gsk-secret-2"}
    done = init("--output", path, "--ports", "", "--json", **environ)
    text = path.read_text()
    assert "secret" not in text + done.stdout + done.stderr
    assert json.loads(done.stdout)["keys"] == {
        k: v for k, v in KEY_VARIABLES.items() if v in environ
    }
    config = checked(path, **environ)
    assert config.providers["openai"].api_key.reveal() == "sk-secret-1"
    assert config.routes["assistant"].targets[0].model == "openai/gpt-4o-mini"


def test_a_key_that_cannot_be_sent_leaves_no_file(tmp_path):
    path = tmp_path / "c.yaml"
    done = init("--output", path, "--ports", "", code=2, OPENAI_API_KEY="sk-secret\n")
    assert "providers.openai.api_key" in done.stderr
    assert "sk-secret" not in done.output
    assert not path.exists()


def test_a_llama_cpp_server_becomes_a_provider_and_answers(tmp_path):
    model = tiny_gguf.write(tmp_path / "tiny.gguf")
    path = tmp_path / "c.yaml"
    with llama_server(model) as address:
        port = address.rpartition(":")[2]
        done = init("--output", path, "--ports", f"llamafile={port}", "--json")
    told = json.loads(done.stdout)
    assert told["model"] == "llamafile/tiny"
    assert told["servers"][0]["models"] == ["tiny"]
    config = checked(path)
    assert config.providers["llamafile"].base_url == f"http://127.0.0.1:{port}/v1"
    assert config.routes["assistant"].targets[0].model == "llamafile/tiny"


HOSTILE = [
    "a\nroutes: {}",
    '"}, x: {kind: openai, api_key: "y',
    "${OPENAI_API_KEY}",
    "# {path} {store} %s \\",
    "🦙: - *a &b !!python/object",
    "\x85",
    "m\u2028n",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_models_name_cannot_change_what_the_file_says(tmp_path, name):
    body = json.dumps({"data": [{"id": name, "owned_by": "vllm"}]}).encode()
    path = tmp_path / "c.yaml"
    with raw_host([READ, *answer(body)]) as host:
        init("--output", path, "--ports", f"vllm={host.port}", OPENAI_API_KEY="sk-1")
    config = checked(path, OPENAI_API_KEY="sk-1")
    assert set(config.providers) == {"baseline", "hf", "openai", "vllm"}
    [target] = config.routes["assistant"].targets
    # Names that no request can have are left out.
    assert target.model == (f"vllm/{name}" if name.isprintable() else "openai/gpt-4o-mini")


def test_a_server_that_refuses_is_named_with_the_variable_for_its_key(tmp_path):
    path = tmp_path / "c.yaml"
    with raw_host([READ, *answer(b"{}", status="401 Unauthorized")]) as host:
        done = init("--output", path, "--ports", f"vllm={host.port}")
    assert f"vllm: http://127.0.0.1:{host.port}/v1 needs a key: set VLLM_API_KEY\n" in done.stdout
    assert checked(path, VLLM_API_KEY="sk-1").providers["vllm"].api_key.reveal() == "sk-1"
    assert checked(path).providers["vllm"].api_key.reveal() == ""


def test_a_server_with_a_key_names_the_variable_for_it():
    server = LocalServer(
        name="lm-studio", kind="compatible", base_url="http://127.0.0.1:1234/v1", needs_key=True
    )
    text = first_config("e.yaml", [server], {"S3_BUCKET": "b"})
    assert "${LM_STUDIO_API_KEY:-}" in text
    assert "but for what S3_BUCKET in the environment say" in text
    assert first_model([server], {}) == "baseline/lead-3"


def test_an_existing_file_stays(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("mine")
    done = init("--output", path, "--ports", "", code=2)
    assert done.stderr == (
        f"error: {path} exists; --force replaces it, --output FILE writes another one\n"
    )
    assert path.read_text() == "mine"
    init("--output", path, "--ports", "", "--force")
    checked(path)
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_not_followed(tmp_path, there):
    other = tmp_path / "other"
    if there:
        other.write_text("theirs")
    path = tmp_path / "c.yaml"
    path.symlink_to(other)
    init("--output", path, "--ports", "", code=2)
    init("--output", path, "--ports", "", "--force")
    assert not path.is_symlink()
    assert other.read_text() == "theirs" if there else not other.exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--output", "/nowhere/c.yaml"], "/nowhere/c.yaml cannot be written: No such file"),
        (["--output", "/", "--force"], "/ is a folder"),
        (["--ports", "olama=1"], "'olama' is none of ollama, llamafile"),
        (["--ports", "ollama=99999"], "'99999' is no port"),
        (["--ports", "ollama"], "'' is no port"),
        (["--ports", "ollama=" + "9" * 5000], "is no port"),
        (["--ports", "", "--host", "no.such.host.invalid"], "does not resolve"),
        (["--ports", "", "--host", "a" * 70 + ".x"], "does not resolve"),
    ],
)
def test_bad_input_is_a_line(tmp_path, args, told):
    more = [] if "--output" in args else ["--output", str(tmp_path / "c.yaml")]
    done = init(*args, *more, *([] if "--ports" in args else ["--ports", ""]), code=2)
    assert told in done.stderr
    assert "Traceback" not in done.output


def test_the_first_models_are_in_the_price_book():
    assert set(FIRST_MODELS) == set(KEY_VARIABLES)
    providers = {kind: CompatibleConfig(kind=kind) for kind in FIRST_MODELS}
    book = PriceBook({}, providers)
    # OpenRouter's price is that of the model that it chooses.
    for kind in set(FIRST_MODELS) - {"openrouter"}:
        assert book.price(Target(kind, FIRST_MODELS[kind])) is not None, kind
