"""The container topology: valid by the Compose Specification, and consistent with the files it names."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from aegisipc.router.infrastructure.server_config import find_server_binary
from tests.deploy.commands import check_aegis_command

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).with_name("compose-spec.json")
NATS_CONF = ROOT / "deploy/nats/nats.conf"

type Service = dict[str, Any]


def example_environment() -> dict[str, str]:
    lines = (ROOT / "deploy/example.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolate(text: str, variables: dict[str, str]) -> str:
    """Do what Compose does with ``${NAME}`` and ``${NAME:?message}``; an unknown name is a ``KeyError``."""
    return re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", lambda found: variables[found[1]], text)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(interpolate(text, example_environment()))
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Service]:
    found: dict[str, Service] = compose["services"]
    return found


def with_command(services: dict[str, Service], verb: str) -> dict[str, Service]:
    return {name: service for name, service in services.items() if service["command"][0] == verb}


def test_it_is_valid_by_the_compose_specification(compose: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert [f"{e.json_path}: {e.message}" for e in validator.iter_errors(compose)] == []


def test_the_schema_would_notice_a_mistake(compose: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    broken = compose | {"services": {"nats-1": {"imgae": "nats"}}}
    assert not validator.is_valid(broken)


def test_there_are_three_servers_two_routers_two_instances_and_a_client(services: dict[str, Service]) -> None:
    verbs = Counter(service["command"][0] for service in services.values())
    assert verbs == {"nats-server": 3, "router": 2, "serve": 2, "call": 1}


def test_every_aegis_command_is_one_that_the_command_line_accepts(services: dict[str, Service]) -> None:
    for service in services.values():
        if service["command"][0] != "nats-server":
            check_aegis_command(service["command"])


@pytest.mark.parametrize(
    "words", [["router", "--retries=3"], ["route"], ["serve"], ["router", "--replicas=three"]]
)
def test_a_command_that_does_not_exist_would_be_noticed(words: list[str]) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_aegis_command(words)


def test_the_health_check_is_a_command_that_exists(services: dict[str, Service]) -> None:
    checks = [
        service["healthcheck"]["test"][1:]
        for service in services.values()
        if "build" in service and "test" in service["healthcheck"]
    ]
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    checks += [json.loads(words) for words in re.findall(r"^\s+CMD (\[.+\])$", dockerfile, re.MULTILINE)]
    assert len(checks) > 1
    for aegis, *words in checks:
        assert aegis == "aegis"
        check_aegis_command(words)


def test_both_instances_serve_the_same_group_and_resources_under_their_own_names(
    services: dict[str, Service],
) -> None:
    instances = with_command(services, "serve")
    names = {name: f"--instance={name}" for name in instances}
    others = [
        [word for word in service["command"] if word != names[name]] for name, service in instances.items()
    ]
    assert all(names[name] in service["command"] for name, service in instances.items())
    assert others[0] == others[1]


def test_both_routers_have_the_same_options_and_their_own_names(services: dict[str, Service]) -> None:
    routers = with_command(services, "router")
    others = [[w for w in service["command"] if w != f"--name={name}"] for name, service in routers.items()]
    assert others[0] == others[1]
    assert all(f"--name={name}" in service["command"] for name, service in routers.items())
    assert "--replicas=3" in others[0]


def test_the_client_is_started_on_demand_and_not_again(services: dict[str, Service]) -> None:
    (client,) = with_command(services, "call").values()
    assert client["profiles"]
    assert client["restart"] == "no"


def test_every_long_running_service_restarts_is_checked_and_is_limited(services: dict[str, Service]) -> None:
    for name, service in services.items():
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory", "pids"} <= limits.keys(), name
        if "profiles" not in service:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_services_wait_only_for_services_that_can_become_healthy(services: dict[str, Service]) -> None:
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, name
            assert "test" in services[needed]["healthcheck"], (name, needed)


def test_each_server_has_its_own_name_its_own_volume_and_the_variables_its_configuration_needs(
    compose: dict[str, Any], services: dict[str, Service]
) -> None:
    needed = set(re.findall(r"^[^#\n]*?\$([A-Z_]+)", NATS_CONF.read_text(encoding="utf-8"), re.MULTILINE))
    volumes: list[str] = []
    for name, service in with_command(services, "nats-server").items():
        environment = service["environment"]
        assert needed <= environment.keys(), name
        assert environment["NATS_NAME"] == name
        volumes += [
            mount.split(":")[0]
            for mount in service["volumes"]
            if mount.endswith(f":{environment['NATS_DATA']}")
        ]
    assert sorted(volumes) == sorted(compose["volumes"])
    assert len(set(volumes)) == 3


def test_a_server_accepts_the_configuration_with_each_nodes_variables(services: dict[str, Service]) -> None:
    for service in with_command(services, "nats-server").values():
        argv = [str(find_server_binary()), "-t", "-c", str(NATS_CONF)]
        checked = subprocess.run(
            argv, env=service["environment"], capture_output=True, text=True, timeout=30, check=False
        )
        assert checked.returncode == 0, checked.stderr


def test_routes_and_urls_name_every_server(services: dict[str, Service]) -> None:
    servers = set(with_command(services, "nats-server"))
    for name, service in services.items():
        environment = service["environment"]
        if name in servers:
            routes = re.findall(r"nats://route:[^@,\s]+@([\w-]+):(\d+)", environment["NATS_ROUTES"])
            assert routes == [(server, environment["NATS_CLUSTER_PORT"]) for server in sorted(servers)]
        else:
            assert re.findall(r"([\w-]+):4222", environment["AEGIS_URL"]) == sorted(servers), name


def test_routers_alone_have_the_system_account_on_every_server(services: dict[str, Service]) -> None:
    servers = sorted(with_command(services, "nats-server"))
    routers = with_command(services, "router")
    for name, service in services.items():
        url = service["environment"].get("AEGIS_SYSTEM_URL")
        assert (url is not None) is (name in routers), name
        if url is not None:
            assert re.findall(r"([\w-]+):4222", url) == servers, name
            assert url.startswith("nats://sys:"), name


def test_published_ports_do_not_clash_and_stay_on_loopback(services: dict[str, Service]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    outside = [port.rsplit(":", 1)[0] for port in published]
    assert len(set(outside)) == len(outside)
    assert all(address.startswith("127.0.0.1:") for address in outside)


def test_every_file_it_names_exists(services: dict[str, Service]) -> None:
    for service in services.values():
        for mount in service.get("volumes", []):
            source, target, *_ = mount.split(":")
            if source.startswith("."):
                assert (ROOT / source).is_dir()
                assert (ROOT / source / service["command"][-1].removeprefix(target + "/")).is_file()
        if "build" in service:
            assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_the_image_gets_every_file_it_copies() -> None:
    allowed = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = [
        source
        for words in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
        for source in words.split()[:-1]
        if source != "."
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).is_file()
        assert source.split("/", maxsplit=1)[0] in allowed


def test_the_image_brings_its_bytecode_since_its_user_cannot_write_any() -> None:
    builder = (ROOT / "Dockerfile").read_text(encoding="utf-8").split("\nFROM ")[1]
    assert "UV_COMPILE_BYTECODE=1" in builder.partition("RUN")[0]


def test_the_image_runs_as_an_unprivileged_user_and_checks_its_health() -> None:
    runtime = (ROOT / "Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", runtime, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", runtime, re.MULTILINE)
    assert 'ENTRYPOINT ["aegis"]' in runtime
