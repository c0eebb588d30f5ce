"""Repositories of the hub are read like folders, and only the bytes that are needed are sent."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save

import specdiag
from specdiag.checkpoint.reader import open_checkpoint, tensor_digest
from specdiag.checkpoint.remote.places import place
from specdiag.checkpoint.remote.ranges import BLOCK
from specdiag.checkpoint.remote.requests import plain_host
from specdiag.checkpoint.weights.find import weights
from specdiag.cli.main import cli
from support.hub import REPO

HUB = f"hf://{REPO}"
LOGIN = "set HF_TOKEN or run 'hf auth login' for an account with access"
TOKEN = "hf_secret"


def state(rng, n=12, rows=300, columns=200):
    return {
        f"layer.{i}.weight": rng.standard_normal((rows, columns)).astype("f4") for i in range(n)
    }


def torch_bytes(values, **how):
    stream = io.BytesIO()
    torch.save({name: torch.tensor(value) for name, value in values.items()}, stream, **how)
    return stream.getvalue()


def sharded(values, ending="safetensors", saved=save):
    """Return the files of two shards and their index."""
    names = [f"model-0000{i}-of-00002.{ending}" for i in (1, 2)]
    shards = [dict(list(values.items())[i::2]) for i in (0, 1)]
    where = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    index = json.dumps({"metadata": {}, "weight_map": where}).encode()
    files = {name: saved(shard) for name, shard in zip(names, shards, strict=True)}
    return {f"model.{ending}.index.json": index, **files}


def on_disk(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def message(call, *arguments, kind=(ValueError, OSError), **options):
    """Return the message, one line, of the error that a call raises."""
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


def run(*arguments):
    done = CliRunner().invoke(cli, [str(a) for a in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.stdout, done.stderr


KINDS = {
    "safetensors": lambda s: {"model.safetensors": save(s)},
    "zip": lambda s: {"pytorch_model.bin": torch_bytes(s)},
    "legacy": lambda s: {"model.pt": torch_bytes(s, _use_new_zipfile_serialization=False)},
    "shards": sharded,
    "torch shards": lambda s: sharded(s, "bin", torch_bytes),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_repository_is_read_like_its_folder(hub, rng, tmp_path, kind):
    files = KINDS[kind](state(rng, 3, 60, 50)) | {"config.json": b"{}"}
    hub.push(files)
    opened = open_checkpoint(HUB)
    assert opened.name == "poyo"
    assert tensor_digest(HUB) == tensor_digest(on_disk(tmp_path / "local", files))


def test_a_folder_in_a_repository_and_a_file_are_read(hub, rng):
    one, two = state(rng, 1, 60, 50), state(rng, 1, 50, 60)
    hub.push({"a b/ü%20#?.safetensors": save(one), "model.safetensors": save(two)})
    assert open_checkpoint(f"{HUB}/a b").name == "a b"
    for name in ("a b", "a b/ü%20#?.safetensors"):
        (tensor,) = open_checkpoint(f"{HUB}/{name}").tensors
        np.testing.assert_array_equal(tensor.read(), one["layer.0.weight"])
    assert open_checkpoint(f"{HUB}/model.safetensors").tensors[0].shape == (50, 60)


def test_only_the_header_and_the_chosen_matrix_are_sent(hub, rng):
    hub.push({"model.safetensors": save(state(rng)), "pytorch_model.bin": bytes(10**6)})
    found = specdiag.alpha(HUB, layers="layer.7.*")
    assert found.sizes["layer"] == 1
    assert hub.sent <= 300 * 200 * 4 + 3 * BLOCK  # the file has 12 times as many bytes


def test_the_weights_of_a_torch_file_are_listed_without_their_values(hub, rng):
    content = torch_bytes(state(rng, rows=1000))
    hub.push({"pytorch_model.bin": content})
    assert len(weights(open_checkpoint(HUB))) == 12
    assert hub.sent <= 16 * BLOCK < len(content) / 8


def test_a_tied_head_is_seen_by_a_few_rows(hub, rng):
    table = rng.standard_normal((5000, 300)).astype("f4")
    content = save({"lm_head.weight": table, "items.weight": table})
    hub.push({"model.safetensors": content})
    found = {w.name: w.table for w in weights(open_checkpoint(HUB))}
    assert found == {"items.weight": "tied head", "lm_head.weight": ""}
    assert hub.sent <= 8 * BLOCK < len(content) / 8


def test_what_was_read_is_not_sent_again(hub, rng):
    hub.push({"model.safetensors": save(state(rng))})
    tensors = open_checkpoint(HUB).tensors
    for _ in range(2):
        for tensor in tensors:
            tensor.read()
    sent = hub.sent
    open_checkpoint(HUB).tensors[0].read()
    assert hub.sent == sent <= 12 * 300 * 200 * 4 + 2 * BLOCK


def test_what_is_kept_of_a_file_is_limited(hub, rng, monkeypatch):
    from specdiag.checkpoint.remote import kept

    monkeypatch.setattr(kept, "MAX_KEPT", 8 * BLOCK)
    values = state(rng)
    hub.push({"model.safetensors": save(values)})
    for tensor in open_checkpoint(HUB).tensors * 2:
        np.testing.assert_array_equal(tensor.read(), values[tensor.name])


def test_files_that_were_used_the_longest_time_ago_make_room(hub, rng, monkeypatch):
    from specdiag.checkpoint.remote import kept

    values = state(rng)
    content = save(values)
    hub.push({f"{i}/model.safetensors": content for i in range(3)})
    monkeypatch.setattr(kept, "MAX_KEPT", 2 * len(content))
    tensors = [open_checkpoint(f"{HUB}/{i}").tensors for i in range(3)]
    n_open = []
    for some in (*tensors, tensors[2], tensors[0]):
        before = hub.sent
        for tensor in some:
            np.testing.assert_array_equal(tensor.read(), values[tensor.name])
        is_sent = hub.sent > before
        n_open.append(len([*Path("/proc/self/fd").iterdir()]))
    assert sum(file.n_bytes for file in kept.known) <= 2 * len(content)
    assert is_sent
    assert max(n_open) <= n_open[0] + 2  # those of the server come and go


def test_the_revision_is_pinned_when_it_is_opened(hub, rng):
    old, new = (save(state(rng, 1)) for _ in range(2))
    first = hub.push({"model.safetensors": old})
    opened = open_checkpoint(HUB)
    second = hub.push({"model.safetensors": new})
    before = opened.tensors[0].read()
    assert str(opened.path) == f"{HUB}@{first}"
    assert opened.notes == (f"read from the hub: {REPO} at 'main', commit {first}",)
    assert str(open_checkpoint(HUB).path) == f"{HUB}@{second}"
    assert not np.array_equal(before, open_checkpoint(HUB).tensors[0].read())
    again = open_checkpoint(f"{HUB}@{first}/model.safetensors")
    np.testing.assert_array_equal(before, again.tensors[0].read())
    assert again.notes == (f"read from the hub: {REPO} commit {first}",)


def test_the_commit_is_in_the_dataset_and_the_json(hub, rng):
    commit = hub.push({"model.safetensors": save(state(rng, 1))}, "v1.0")
    name = f"{HUB}@{commit}"
    dataset = specdiag.alpha(f"{HUB}@v1.0")
    (checkpoint,) = json.loads(dataset.attrs["provenance"])["checkpoints"]
    assert (checkpoint["name"], checkpoint["path"]) == ("poyo", name)
    assert dataset.checkpoint.item() == "poyo"
    status, out, _ = run("alpha", f"{HUB}@v1.0", "--json")
    assert status == 0
    assert json.loads(out)["checkpoints"][0]["path"] == name
    assert run("alpha", f"{HUB}@v1.0")[1].startswith(f"{name}\n")


def test_the_commits_of_untrained_networks_and_of_a_base_are_in_the_dataset(hub, rng, tmp_path):
    A, B = rng.standard_normal((3, 200)), rng.standard_normal((300, 3))
    factors = {f"base_model.model.layer.0.lora_{x}.weight": y for x, y in (("A", A), ("B", B))}
    config = json.dumps({"peft_type": "LORA", "r": 3, "lora_alpha": 6}).encode()
    adapter = {"adapter_model.safetensors": save(factors), "adapter_config.json": config}
    base, new = ({"model.safetensors": save(state(rng, 1))} for _ in range(2))
    folder = on_disk(tmp_path / "adapter", adapter)
    commit = hub.push(base)
    untrained = hub.push(new, "untrained")
    output = tmp_path / "measured.nc"
    given = ("--base", HUB, "--initialisation", f"{HUB}@untrained", "-o", output)
    assert run("alpha", folder, *given)[0] == 0
    with specdiag.open_spectra(output) as dataset:
        settings = json.loads(dataset.attrs["provenance"])["settings"]
    assert settings["base"] == f"{HUB}@{commit}"
    assert settings["initialisation"] == [f"{HUB}@{untrained}"]


@pytest.mark.parametrize("branch", ["refs/pr/1", "refs/convert/safetensors", "v1.0", "a b"])
def test_a_revision_is_a_branch_tag_or_reference(hub, rng, branch):
    commit = hub.push({"sub/model.safetensors": save(state(rng, 1))}, branch)
    assert str(open_checkpoint(f"{HUB}@{branch}/sub").path) == f"{HUB}@{commit}/sub"


def test_the_configuration_beside_a_file_is_evidence(hub, rng):
    A, B = rng.standard_normal((3, 60)), rng.standard_normal((80, 3))
    names = [f"base_model.model.q_proj.lora_{x}.weight" for x in "AB"]
    config = json.dumps({"peft_type": "LORA", "r": 3, "lora_alpha": 6}).encode()
    adapter = save(dict(zip(names, (A, B), strict=True)))
    hub.push({"adapter_model.safetensors": adapter, "adapter_config.json": config})
    (weight,) = weights(open_checkpoint(HUB))
    np.testing.assert_allclose(weight.read(), 2 * B @ A)


def test_one_of_several_checkpoints_must_be_named_as_in_a_folder(hub, rng, tmp_path):
    content = save(state(rng, 1))
    several = [
        {"a.safetensors": content, "b.safetensors": content},
        {"unet/model.safetensors": content, "vae/model.safetensors": content},
        {"README.md": b"# none"},
        {"model-00001-of-00003.safetensors": content, "model-00002-of-00003.safetensors": content},
        {"zero_pp_rank_0_mp_rank_00_model_states.pt": content},
        {".metadata.tmp": content, "__0_0.distcp": content},
    ]
    for i, files in enumerate(several):
        hub.push(files)
        local = message(open_checkpoint, on_disk(tmp_path / str(i) / "poyo", files))
        assert message(open_checkpoint, HUB) == local


def test_a_shard_that_the_index_names_and_the_repository_lacks_is_named(hub, rng):
    files = sharded(state(rng, 2))
    del files["model-00002-of-00002.safetensors"]
    hub.push(files)
    assert message(open_checkpoint, HUB) == (
        "model.safetensors.index.json: the shard 'model-00002-of-00002.safetensors' is missing; "
        "download it too"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "hf://lab/other",
            "hf://lab/other: HTTP 401: no such repository, or a private one; check its name, or "
            + LOGIN,
        ),
        (
            f"{HUB}@dev",
            f"{HUB}@dev: HTTP 404: no such revision; check the name of the branch, tag or commit",
        ),
        (
            f"{HUB}/b.bin",
            "b.bin: no such file in the repository at this revision; it has a.md",
        ),
        (f"{HUB}/a/..", f"{HUB}: 'a/..' is not a path in a repository"),
        (f"{HUB}/../../x/y", f"{HUB}: '../../x/y' is not a path in a repository"),
        (
            "hf://gpt2",
            "hf://gpt2: expected hf://owner/repo, hf://owner/repo@revision or hf://owner/repo/file",
        ),
        ("hf://datasets/a/b", "hf://datasets/a: only repositories of models are read"),
        ("hf://a--b/c", "hf://a--b/c: not the name of a repository; expected hf://owner/repo"),
        (
            "s3://bucket/x",
            "'s3' addresses are not read; expected hf://owner/repo, https://host/file or a path",
        ),
    ],
)
def test_what_is_missing_or_invalid_is_named(hub, rng, name, expected):
    hub.push({"a.md": b"x"})
    assert message(open_checkpoint, name) == expected
    status, _, err = run("alpha", name)
    assert status in (1, 2)
    assert "Traceback" not in err


def test_a_gated_repository_is_named_and_read_with_a_token(hub, rng, monkeypatch):
    hub.push({"model.safetensors": save(state(rng, 1))})
    hub.token = TOKEN
    assert message(open_checkpoint, HUB, kind=PermissionError) == (
        "model.safetensors: HTTP 401: a gated repository; ask for access on its page, then " + LOGIN
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert len(open_checkpoint(HUB).tensors) == 1


def test_a_token_goes_to_the_hub_only_and_into_no_text(hub, rng, monkeypatch):
    hub.push({"model.safetensors": save(state(rng))})
    hub.token = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    dataset = specdiag.alpha(HUB)
    for _, path, headers in hub.requests:
        assert (f"Bearer {TOKEN}" in headers.values()) == (not path.startswith("/storage/"))
    assert TOKEN not in dataset.attrs["provenance"]
    assert TOKEN not in str(run("alpha", HUB, f"{HUB}@dev"))


def test_the_address_of_the_storage_is_kept_until_it_is_refused(hub, rng):
    values = state(rng)
    hub.push({"model.safetensors": save(values)})
    tensors = open_checkpoint(HUB).tensors
    hub.requests.clear()
    tensors[2].read()
    assert [path.split("/")[1] for _, path, _ in hub.requests] == ["storage"]
    hub.requests.clear()
    hub.fail("/storage/", status=403)
    np.testing.assert_array_equal(tensors[8].read(), values[tensors[8].name])
    assert [path.split("/")[1] for _, path, _ in hub.requests] == ["storage", "lab", "storage"]


def test_without_a_network_the_hub_is_asked_twice(hub, monkeypatch, pauses):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    text = message(open_checkpoint, HUB, kind=ConnectionError)
    assert text.startswith(f"{HUB}: no connection (")
    assert text.endswith("after 2 attempts; try again later")
    assert pauses == [1.0]


def test_plain_http_to_a_hub_behind_https_is_refused(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.lan")
    page = "http://hub.lan/lab/net/blob/main/model.safetensors"
    expected = f"{page}: expected https, where others cannot change the bytes"
    assert message(open_checkpoint, page, kind=ValueError) == expected
    assert hub.requests == []


@pytest.mark.parametrize(
    ("endpoint", "host"), [("https://hub.lan", None), ("http://mirror.lan:80/x", "mirror.lan")]
)
def test_plain_http_is_for_the_host_of_an_endpoint_with_plain_http(endpoint, host):
    assert plain_host(endpoint) == host


def test_offline_nothing_is_asked(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    expected = f"{HUB}: huggingface_hub is offline; unset HF_HUB_OFFLINE, or name a path"
    assert message(open_checkpoint, HUB) == expected
    assert hub.requests == []


def test_a_broken_connection_and_a_busy_server_are_asked_again(hub, rng, pauses):
    values = state(rng, 1)
    hub.push({"model.safetensors": save(values)})
    hub.fail("/api/", status=429, headers={"Retry-After": "7"})
    hub.fail("/storage/", cut=1000)
    hub.fail("/storage/", status=503)
    (tensor,) = open_checkpoint(HUB).tensors
    np.testing.assert_array_equal(tensor.read(), values[tensor.name])
    assert pauses == [7.0, 1.0, 4.0]


def test_owner_and_name_are_a_repository_if_there_is_no_such_path(hub, rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub.push({"model.safetensors": save(state(rng, 1))})
    assert str(place(REPO)) == HUB
    assert len(open_checkpoint(REPO).tensors) == 1
    status, out, _ = run("alpha", REPO)
    assert (status, out.startswith(f"{HUB}@")) == (0, True)


@pytest.mark.parametrize(
    "name",
    [
        *("runs/model.pt", "runs/model.safetensors", "runs/MODEL.CKPT", "./lab/poyo", "lab/poyo/x"),
        *("../poyo", "/lab/poyo", "~/poyo", "lab\\poyo", "lab/po yo", "lab/", "poyo", "here/poyo"),
    ],
)
def test_a_mistyped_path_asks_nobody(hub, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert "No such file" in message(open_checkpoint, name)
    status, _, err = run("alpha", name)
    assert (status, f"Path '{name}' does not exist." in err) == (2, True)
    assert hub.requests == []


def test_a_path_here_and_an_entry_of_the_lock_come_before_the_hub(hub, rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    on_disk(tmp_path, {f"{REPO}/model.safetensors": save(state(rng, 1))})
    assert run("alpha", REPO)[0] == 0
    assert len(open_checkpoint(REPO).tensors) == 1
    assert hub.requests == []


@pytest.mark.parametrize(
    "page", ["", "/tree/main", "/blob/main/model.safetensors", "/resolve/main/model.safetensors"]
)
def test_the_page_of_a_repository_or_file_is_read_as_such(hub, rng, page):
    hub.push({"model.safetensors": save(state(rng, 1))})
    assert str(open_checkpoint(f"{hub.url}/{REPO}{page}").path).startswith(f"{HUB}@")


def test_an_address_as_a_path_object_is_the_same(hub, rng):
    hub.push({"model.safetensors": save(state(rng, 1))})
    path = place(HUB)
    assert pickle.loads(pickle.dumps(path)) == path == place(Path(HUB))
    for source in (path, Path(HUB), str(path)):
        assert len(open_checkpoint(source).tensors) == 1


def test_commands_take_addresses_and_write_beside_them(hub, rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = save(state(rng, 2))
    commit = hub.push({"model.safetensors": content})
    Path("model.safetensors").write_bytes(content)
    address = f"{HUB}/model.safetensors"
    assert run("export", address, "out.safetensors")[0] == 0
    assert tensor_digest("out.safetensors") == tensor_digest("model.safetensors")
    status, out, _ = run("compare", address, "model.safetensors")
    assert status == 0
    assert "identical" in out
    status, out, _ = run("weights", address)
    assert (status, out.splitlines()[0]) == (0, f"{HUB}@{commit}/model.safetensors")
    assert run("alpha", address, "model.safetensors", "-o", "both.nc")[0] == 0
    with specdiag.open_spectra("both.nc") as dataset:
        assert dataset.sizes["checkpoint"] == 2
