"""Settings of the network: how addresses are written, what goes together, and what it takes to go unprotected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raftwork import ConfigError, Raftwork, config
from raftwork.config import SETTINGS, Config
from raftwork.network import ALLOW_INSECURE, CHECKS, INSECURE_WORDS, Network, check_address, check_addresses
from raftwork.storage.connect import connect
from raftwork.storage.raft import RaftStorage
from raftwork.storage.remote import RemoteStorage

CERTIFICATES = {"tls_ca": "ca.pem", "tls_certificate": "node.pem", "tls_key": "node.key"}


def told(storage: Any) -> dict[str, Any]:
    """What the core would be told, without what every storage says."""
    assert isinstance(storage, RaftStorage | RemoteStorage)
    return {name: value for name, value in storage._options.items() if name not in ("ttl_ms", "kind", "labels")}


@pytest.mark.parametrize("address", ["10.0.0.1:7000", "node-1.example.org:7000", "[::1]:7000", "localhost:0"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    assert check_address(address, "listen") == address


@pytest.mark.parametrize(
    "address",
    ["", ":", "10.0.0.1", "10.0.0.1:", ":7000", "host:x", "host:-1", "host:+1", "host:65536", "host:7 0", "::1:7000",
     "[::1]", "[host]:1", "tcp://host:1", "ho st:1", "host\n:1", "host:٣", 7000, None, b"host:1", ("host", 1)],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_the_name_of_its_setting(address: Any) -> None:
    with pytest.raises(ConfigError, match=r"^RW001 advertise="):
        check_address(address, "advertise")


def test_addresses_are_a_list_or_text_with_commas() -> None:
    assert check_addresses("a:1, b:2 ,c:3", "members") == ("a:1", "b:2", "c:3")
    assert check_addresses(["a:1", "b:2"], "members") == ("a:1", "b:2")
    for wrong in ("", ",", [], "a:1,,b:2", "a:1,a:1", ["a:1", 5], 5, None, {"a:1": 1}, b"a:1"):
        with pytest.raises(ConfigError, match="members"):
            check_addresses(wrong, "members")


@pytest.mark.parametrize("place", ["constructor", "environment", "toml", "pyproject"])
def test_members_are_read_from_every_place(tmp_path: Path, place: str) -> None:
    given: dict[str, Any] = {}
    environ: dict[str, str] = {}
    if place == "constructor":
        given = {"listen": "a:1", "members": ["a:1", "b:2"]}
    elif place == "environment":
        environ = {"RAFTWORK_LISTEN": "a:1", "RAFTWORK_MEMBERS": "a:1,b:2"}
    elif place == "toml":
        (tmp_path / "raftwork.toml").write_text('listen = "a:1"\nmembers = ["a:1", "b:2"]\n')
    else:
        (tmp_path / "pyproject.toml").write_text('[tool.raftwork]\nlisten = "a:1"\nmembers = "a:1,b:2"\n')
    found = Config.load(given, environ, tmp_path)
    assert (found["listen"], found["members"]) == ("a:1", ("a:1", "b:2"))
    assert found.sources["members"].place.startswith(
        {"toml": str(tmp_path), "pyproject": str(tmp_path)}.get(place, place)
    )
    assert Network.of(found) == Network(listen="a:1", members=("a:1", "b:2"))


def test_every_setting_of_the_network_has_its_check_and_its_type() -> None:
    assert list(SETTINGS)[-len(CHECKS) :] == list(CHECKS)
    assert {"storage", *config.Settings.__annotations__} == set(SETTINGS)


def test_the_core_is_told_what_was_set_and_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = Raftwork("shop", "raft:///jobs", listen="a:1", members=["a:1", "b:2"], **CERTIFICATES)  # type: ignore[arg-type]
    files = {name: str(tmp_path / path) for name, path in CERTIFICATES.items()}
    assert told(app.storage) == {"listen": "a:1", "members": ["a:1", "b:2"], **files}
    assert app.storage.capabilities.replicated
    assert told(Raftwork("shop", "raft:///jobs").storage) == {}
    assert not Raftwork("shop", "raft:///jobs").storage.capabilities.replicated


def test_bounds_of_a_node_reach_the_core_from_settings_and_from_the_url() -> None:
    given: dict[str, Any] = {
        "max_jobs": 500,
        "max_state_bytes": 1 << 30,
        "max_clients": 7,
        "follower_log_bytes": 1 << 20,
    }
    app = Raftwork("shop", "raft:///jobs?client_rate=9", listen="a:1", members="a:1", **given)
    assert told(app.storage) == {"listen": "a:1", "members": ["a:1"], "client_rate": 9, **given}
    # A node alone has no clients on other machines and no members that fall behind.
    assert told(Raftwork("shop", "raft:///jobs", **given).storage) == {"max_jobs": 500, "max_state_bytes": 1 << 30}


def test_a_client_says_which_cluster_may_answer() -> None:
    uuid = "01234567-89ab-cdef-0123-456789abcdef"
    for storage in (
        connect("raftwork://127.0.0.1:1", network=Network(cluster_id=uuid)),
        connect(f"raftwork://127.0.0.1:1?cluster_id={uuid}"),
    ):
        assert told(storage) == {"nodes": ("127.0.0.1:1",), "cluster_id": uuid}
    assert told(connect("raft:///jobs", network=Network(listen="a:1", cluster_id=uuid))) == {"listen": "a:1"}
    with pytest.raises(ConfigError, match="is not the id of a cluster"):
        Raftwork("shop", cluster_id="shop")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("max_jobs", 0), ("max_jobs", 10_000_001), ("max_state_bytes", 1 << 10), ("max_state_bytes", "much"),
     ("max_clients", 0), ("max_clients", True), ("follower_log_bytes", 5), ("follower_log_bytes", -1)],
)  # fmt: skip
def test_a_bound_out_of_its_range_is_refused_by_its_name(name: str, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}=.* is not a whole number"):
        Raftwork("shop", **{name: wrong})


def test_the_url_wins_over_the_settings() -> None:
    network = Network(listen="a:1", members=("a:1", "b:2"))
    joining = connect("raft:///jobs?listen=c:3&join=d:4&node_name=the%20third")
    assert told(joining) == {"listen": "c:3", "join": ["d:4"], "name": "the third"}
    url = "raft:///jobs?listen=c:3&members=c:3,d:4&advertise_clients=e:5"
    assert told(connect(url, network=network)) == {
        "listen": "c:3",
        "members": ["c:3", "d:4"],
        "advertise_clients": "e:5",
    }
    assert told(connect("raft:///jobs", network=network)) == {"listen": "a:1", "members": ["a:1", "b:2"]}


def test_a_client_takes_only_what_protects_it() -> None:
    storage = connect("raftwork://a:1,b:2", network=Network(listen="c:3", members=("c:3",), **CERTIFICATES))
    assert isinstance(storage, RemoteStorage)
    assert storage.nodes == ("a:1", "b:2")
    assert set(told(storage)) == {"nodes", *CERTIFICATES}
    assert storage.capabilities.durable and storage.capabilities.shared and storage.capabilities.replicated
    with pytest.raises(ConfigError, match="members is not an option"):
        connect("raftwork://a:1?members=a:1")


@pytest.mark.parametrize(
    "url",
    ["raftwork://", "raftwork://a", "raftwork://a:1,", "raftwork:///a:1", "raftwork://a:1/jobs", "raftwork://a:1,a:1",
     "raftwork://a:1?x=1", "raft:///jobs?members=a", "raft:///jobs?liste=a:1", "raft:///jobs?members=a:1"],
)  # fmt: skip
def test_a_url_that_leads_nowhere_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert "storage=" in str(caught.value) or "needs listen" in str(caught.value)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"members": ("a:1",)}, "members needs listen"),
        ({"advertise": "a:1", "listen_clients": "b:1"}, "listen_clients, advertise needs listen"),
        ({"join": ("a:1",)}, "join needs listen"),
        ({"listen": "a:1", "members": ("a:1",), "join": ("b:1",)}, "members and join are both set"),
        ({"listen": "0.0.0.0:1"}, "Set advertise to"),
        ({"listen": "[::]:1"}, "Set advertise to"),
        ({"listen": "a:1", "listen_clients": "0.0.0.0:1"}, "Set advertise_clients to"),
        ({"listen": "a:1", "tls_ca": "x"}, "without tls_certificate and tls_key"),
        ({"tls_ca": "x", "tls_key": "y"}, "without tls_certificate"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(network: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        connect("raft:///jobs", network=Network(**network))


def test_no_protection_needs_the_sentence_and_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Network(listen="10.0.0.1:1", insecure=INSECURE_WORDS)
    for url in ("raft:///jobs", "raftwork://10.0.0.1:2"):
        with pytest.raises(ConfigError, match=f"but {ALLOW_INSECURE} is not set"):
            connect(url, network=said)
        monkeypatch.setenv(ALLOW_INSECURE, "yes")
        with pytest.raises(ConfigError, match=f"but {ALLOW_INSECURE} is yes"):
            connect(url, network=said)
        monkeypatch.setenv(ALLOW_INSECURE, "1")
        with pytest.raises(ConfigError, match="the setting insecure is not"):
            connect(url)
        assert told(connect(url, network=said))["insecure"] is True
        by_url = connect(f"{url}?insecure={INSECURE_WORDS}", network=Network(listen="10.0.0.1:1"))
        assert told(by_url)["insecure"] is True
        with pytest.raises(ConfigError, match="Take one of them away"):
            connect(url, network=Network(insecure=INSECURE_WORDS, **CERTIFICATES))
        monkeypatch.delenv(ALLOW_INSECURE)


@pytest.mark.parametrize("words", ["1", "true", "yes", INSECURE_WORDS.upper(), INSECURE_WORDS + " ", True, 1])
def test_another_sentence_does_not_do(words: Any) -> None:
    with pytest.raises(ConfigError, match="must be exactly"):
        Raftwork("shop", insecure=words)


def test_the_variable_alone_is_no_misspelt_setting(tmp_path: Path) -> None:
    assert Config.load({}, {ALLOW_INSECURE: "1"}, tmp_path)["insecure"] is None
