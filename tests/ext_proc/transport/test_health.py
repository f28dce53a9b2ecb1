import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from ext_proc import wire
from ext_proc.transport.grpc_protocol import CallError, Status
from ext_proc.transport.health import NOT_SERVING, SERVICE_UNKNOWN, SERVING, Health


def question(service: str = "") -> bytes:
    asked: bytes = HealthCheckRequest(service=service).SerializeToString()
    return asked


def test_checks_and_watches_get_the_health() -> None:
    health, told = Health(), list[bytes]()
    assert health.check(question()) == health.check(question(wire.SERVICE)) == NOT_SERVING
    assert health.watch(question(), "watcher", told.append) == NOT_SERVING
    health.set_serving()
    health.set_serving()
    assert told == [SERVING]
    assert health.check(question()) == SERVING
    health.end()
    health.set_serving()
    assert told == [SERVING, NOT_SERVING]
    assert health.check(question()) == NOT_SERVING
    assert HealthCheckResponse.FromString(SERVING).status == HealthCheckResponse.SERVING


def test_checks_of_an_unknown_service_fail_and_watches_get_its_status() -> None:
    health = Health()
    with pytest.raises(CallError) as caught:
        health.check(question("other"))
    assert caught.value.status is Status.NOT_FOUND
    assert health.watch(question("other"), "watcher", lambda _: None) == SERVICE_UNKNOWN
    assert not health.watchers
    with pytest.raises(CallError) as caught:
        health.check(b"\xff")
    assert caught.value.status is Status.INTERNAL
