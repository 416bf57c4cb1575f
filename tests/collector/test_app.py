"""HTTP: media types, limits, problem documents, identities; and no input that makes it fail with a 500."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duramen import api
from duramen.frame import FRAMES_MEDIA_TYPE
from duramen.names import Seq
from duramen_collector import app as app_module
from duramen_collector.app import PEER, Front, create_app
from duramen_collector.authority import parse_request
from duramen_collector.configuration import VerificationTimes
from duramen_collector.heads import object_key
from duramen_collector.people import people_routes
from duramen_collector.publisher import PublisherState, PublisherStatus
from duramen_collector.schema import checkpoints, tenants
from duramen_collector.sequencer import RegionStatus
from duramen_collector.store.file_store import FileStore
from duramen_collector.store.port import Create
from duramen_collector.tokens import create_token
from duramen_collector.verifications import Verifications
from duramen_collector.writer import Writer

JSON = {"content-type": "application/json"}
FRAMES = {"content-type": FRAMES_MEDIA_TYPE}


@dataclass
class Web:
    """The ASGI application, called by whoever ``peer`` (a certificate, DER) is."""

    site: Any
    client: Any
    statuses: dict[str, PublisherStatus]
    store: FileStore
    peer: bytes | None = None

    def be(self, agent: Any) -> None:
        """Be this agent from now on."""
        csr = self.site_csr(agent)
        pem = self.site.authority.issue_client(agent.identity, csr, self.site.clock.now_ns, self.site.random)
        self.peer = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)

    def site_csr(self, agent: Any) -> Any:
        return parse_request(self.site.csr_for(agent.tls_key))

    def token(self, role: str = "viewer", tenant: str | None = "acme") -> dict[str, str]:
        token, _ = self.site.write(
            lambda connection: create_token(
                connection,
                self.site.pepper,
                self.site.random,
                tenant=tenant,
                role=role,
                now_ns=self.site.clock.now_ns,
                life_ns=10**12,
            )
        )
        return {"authorization": f"Bearer {token}"}


@pytest.fixture
def web(site: Any, asgi_client: Any) -> Iterator[Web]:
    writer = Writer(site.engine)
    writer.start()
    front = Front(site.service, writer, site.engine)
    statuses: dict[str, PublisherStatus] = {}
    root = site.directory / "eu"
    root.mkdir(mode=0o700)
    store = FileStore(root)
    verifications = Verifications(
        site.engine, {"eu": store}, site.log_keys, VerificationTimes(), site.clock, site.random
    )
    app = create_app(front, people_routes(front, {"eu": store}, lambda: statuses, verifications))
    box: list[Web] = []

    async def with_peer(scope: Any, receive: Any, send: Any) -> None:
        scope[PEER] = box[0].peer
        await app(scope, receive, send)

    client = asgi_client(with_peer)
    box.append(Web(site, client, statuses, store))
    yield box[0]
    verifications.close()
    writer.close()


def problem(answer: Any) -> api.Problem:
    assert answer.headers["content-type"] == "application/problem+json"
    found = api.parse_problem(answer.content)
    assert found.status == answer.status_code
    return found


def blocks_url(agent: Any, query: str = "?from=0&seen=0") -> str:
    return api.chain_path(agent.chain, "blocks") + query


def test_the_whole_way_of_an_agent(web: Web) -> None:
    site = web.site
    agent = site.enrolled("web-9")
    web.be(agent)
    answer = web.client.get(api.chain_path(agent.chain, "head"))
    head = api.parse_head_answer(answer.content)
    assert (head.accepted_seq, head.head) == (0, agent.head)
    dek, upload = agent.upload()
    frames = agent.seal_keys(dek, upload).frame + agent.seal_records().frame
    answer = web.client.post(blocks_url(agent), content=frames, headers=FRAMES)
    assert api.parse_progress_answer(answer.content).want == (dek,)
    path = api.chain_path(agent.chain, f"envelopes/{dek.hex()}")
    assert web.client.put(path, content=upload.encode(), headers=JSON).status_code == 204
    answer = web.client.post(blocks_url(agent), content=frames, headers=FRAMES)
    assert answer.headers["content-type"] == "application/json"
    assert api.parse_progress_answer(answer.content) == api.ProgressAnswer(Seq(2), -1)
    beat = agent.beat(head.nonce)
    answer = web.client.post(api.chain_path(agent.chain, "heartbeat"), content=beat.encode(), headers=JSON)
    assert api.parse_progress_answer(answer.content).nonce == site.nonce(agent)
    answer = web.client.get(api.chain_path(agent.chain, "receipt") + "?from=0&seen=0")
    assert api.parse_progress_answer(answer.content).receipt is None


def test_enrolment_over_http(web: Web) -> None:
    site = web.site
    agent = site.new_agent("web-3")
    request = api.EnrollRequest(site.token("web-3"), site.csr_for(agent.tls_key), agent.blocks[0].block.entry)
    answer = web.client.post("/v1/enroll", content=request.encode(), headers=JSON)
    assert api.parse_enroll_answer(answer.content).chain == agent.chain
    wrong = api.EnrollRequest("drm-enrol-no", request.csr_pem, request.genesis)
    refusal = web.client.post("/v1/enroll", content=wrong.encode(), headers=JSON)
    assert (problem(refusal).status, problem(refusal).code) == (401, "token_invalid")


def test_agents_endpoints_need_a_certificate(web: Web) -> None:
    agent = web.site.ready()
    frame = agent.seal_records().frame
    for answer in (
        web.client.post(blocks_url(agent), content=frame, headers=FRAMES),
        web.client.get(api.chain_path(agent.chain, "head")),
        web.client.get(api.chain_path(agent.chain, "receipt") + "?from=0&seen=0"),
        web.client.put(api.chain_path(agent.chain, "envelopes/" + "00" * 16), content=b"{}", headers=JSON),
        web.client.post(api.chain_path(agent.chain, "heartbeat"), content=b"{}", headers=JSON),
    ):
        assert (problem(answer).status, problem(answer).code) == (401, "certificate_needed")


def test_another_agents_certificate(web: Web) -> None:
    agent, other = web.site.ready(), web.site.enrolled("web-2")
    web.be(other)
    answer = web.client.post(blocks_url(agent), content=agent.seal_records().frame, headers=FRAMES)
    assert (problem(answer).status, problem(answer).code) == (403, "not_enrolled")


def test_refusals_carry_the_head(web: Web) -> None:
    agent = web.site.ready()
    web.be(agent)
    agent.seal_records()
    answer = web.client.post(blocks_url(agent), content=agent.seal_records().frame, headers=FRAMES)
    found = problem(answer)
    assert (found.status, found.code, found.accepted_seq) == (409, "gap", 1)
    assert found.head == agent.blocks[1].block.hash


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": FRAMES_MEDIA_TYPE + "; x=1"},
        {**FRAMES, "content-encoding": "gzip"},
    ],
)
def test_media_types_are_exact(web: Web, headers: dict[str, str]) -> None:
    agent = web.site.ready()
    web.be(agent)
    answer = web.client.post(blocks_url(agent), content=agent.seal_records().frame, headers=headers)
    assert (problem(answer).status, problem(answer).code) == (415, "media_type")


def test_a_request_that_breaks_off(web: Web) -> None:
    agent = web.site.ready()
    web.be(agent)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    path = api.chain_path(agent.chain, "blocks")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"from=0&seen=0",
        "root_path": "",
        "headers": [(b"content-type", FRAMES_MEDIA_TYPE.encode())],
    }
    asyncio.run(web.client.app(scope, receive, send))
    assert sent[0]["status"] == 400


def test_bodies_are_bounded_while_they_stream(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = web.site.ready()
    web.be(agent)
    monkeypatch.setattr(app_module, "MAX_REQUEST_BYTES", 1000)
    answer = web.client.post(blocks_url(agent), content=bytes(1001), headers=FRAMES)
    assert (problem(answer).status, problem(answer).code) == (413, "too_large")

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(64)

    answer = web.client.post(blocks_url(agent), content=endless(), headers=FRAMES)
    assert problem(answer).status == 413
    answer = web.client.post("/v1/enroll", content=bytes(app_module.MAX_JSON_BYTES + 1), headers=JSON)
    assert problem(answer).status == 413


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?from=0",
        "?from=0&seen=-1",
        "?from=0&seen=01",
        "?from=0&seen=0&seen=0",
        "?from=x&seen=0",
        f"?from={2**63}&seen=0",
    ],
)
def test_queries_are_strict(web: Web, query: str) -> None:
    agent = web.site.ready()
    web.be(agent)
    answer = web.client.post(blocks_url(agent, query), content=agent.seal_records().frame, headers=FRAMES)
    assert (problem(answer).status, problem(answer).code) == (422, "malformed")


def test_every_error_is_a_problem_document(web: Web) -> None:
    assert problem(web.client.get("/nothing")).code == "not_found"
    assert problem(web.client.get("/v1/enroll")).code == "method_not_allowed"
    assert problem(web.client.get("/v1/chains/XYZ/head")).code == "malformed"
    assert problem(web.client.post("/v1/enroll", content=b"{", headers=JSON)).code == "malformed"


def test_a_defect_is_a_problem_document_without_its_inside(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = web.site.ready()
    web.be(agent)
    monkeypatch.setattr("duramen_collector.service.demand_chain", lambda *_: 1 / 0)
    found = problem(web.client.get(api.chain_path(agent.chain, "head")))
    assert (found.status, found.code) == (500, "internal")
    assert "division" not in found.detail


def test_a_broken_database_is_503_with_retry_after(web: Web) -> None:
    agent = web.site.ready()
    web.be(agent)
    with web.site.engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("DROP TABLE landing")
    answer = web.client.post(blocks_url(agent), content=agent.seal_records().frame, headers=FRAMES)
    assert (problem(answer).status, problem(answer).code) == (503, "busy")
    assert int(answer.headers["retry-after"]) > 0


# People


def test_tokens_and_roles(web: Web) -> None:
    agent = web.site.ready()
    path = "/v1/tenants/acme/chains"
    refusal = web.client.get(path)
    assert (problem(refusal).status, refusal.headers["www-authenticate"]) == (401, "Bearer")
    for header in (
        "Bearer x",
        "Basic " + "x" * 10,
        "Bearer drm-api-" + "x" * 43,
        "Bearer drm-api-" + "x" * 4000,
    ):
        assert web.client.get(path, headers={"authorization": header}).status_code == 401
    answer = web.client.get(path, headers=web.token())
    (chain,) = answer.json()["chains"]
    assert (chain["chain"], chain["accepted_seq"], chain["agent"]) == (agent.chain.hex(), 1, "web-1")
    one = web.client.get(f"{path}/{agent.chain.hex()}", headers=web.token(tenant=None))
    assert one.json() == chain
    assert web.client.get(f"{path}/{'00' * 32}", headers=web.token()).status_code == 404
    other = web.token()
    foreign = problem(web.client.get("/v1/tenants/beta/chains", headers=other))
    assert (foreign.status, foreign.code) == (403, "forbidden")
    assert web.client.get("/v1/tenants/beta/chains", headers=web.token(tenant=None)).status_code == 404


def test_an_expired_token(web: Web) -> None:
    headers = web.token()
    web.site.clock.now_ns += 10**12
    assert web.client.get("/v1/tenants/acme/chains", headers=headers).status_code == 401


def test_regions_and_readiness(web: Web) -> None:
    assert web.client.get("/healthz").json() == {"status": "ok"}
    assert web.client.get("/readyz").status_code == 200
    headers = web.token()
    assert web.client.get("/v1/tenants/acme/regions", headers=headers).status_code == 503
    region = RegionStatus("eu", 3, "it is slow", None)
    web.statuses["acme"] = PublisherStatus(PublisherState.HOLDING, None, None, None, 7, (region,))
    answer = web.client.get("/v1/tenants/acme/regions", headers=headers).json()
    assert (answer["state"], answer["size"], answer["regions"][0]["behind"]) == ("holding", 7, 3)
    assert web.client.get("/readyz").status_code == 200
    web.statuses["acme"] = PublisherStatus(
        PublisherState.STOPPED, "split", "equivocation", None, 7, (region,)
    )
    assert "split" in problem(web.client.get("/readyz")).detail


def test_static_files(web: Web) -> None:
    headers = web.token()
    assert web.client.get("/t/acme/checkpoint").status_code == 401
    assert web.client.get("/t/beta/checkpoint").status_code == 401
    assert web.client.get("/t/acme/checkpoint", headers=headers).status_code == 404
    web.site.write(
        lambda connection: connection.execute(
            checkpoints.insert().values(tenant="acme", size=1, note="note\n", signed_ns=1)
        )
    )
    assert web.client.get("/t/acme/checkpoint", headers=headers).content == b"note\n"
    web.site.write(lambda connection: connection.execute(tenants.update().values(public=True)))
    assert web.client.get("/t/acme/checkpoint").content == b"note\n"
    web.store.perform(Create(object_key("acme", "tile/0/000.p/1"), b"h" * 32))
    web.store.perform(Create(object_key("acme", "tile/entries/000"), b"e"))
    partial = web.client.get("/t/acme/tile/0/000.p/1")
    assert (partial.content, partial.headers["cache-control"]) == (b"h" * 32, "no-cache")
    assert "immutable" in web.client.get("/t/acme/tile/entries/000").headers["cache-control"]
    for path in ("0/000", "0/../../head", "0/0", "9/x", "entries/000.p/0", "%2e%2e/head"):
        assert problem(web.client.get(f"/t/acme/tile/{path}")).status == 404


# Fuzz


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_body_makes_it_fail(web: Web, data: st.DataObject) -> None:
    agent = Once.agent(web)
    frames = b"".join(item.frame for item in agent.blocks[1:])
    start = data.draw(st.integers(0, len(frames)))
    stop = data.draw(st.integers(start, len(frames)))
    mutated = frames[:start] + data.draw(st.binary(max_size=20)) + frames[stop:]
    answer = web.client.post(blocks_url(agent), content=mutated, headers=FRAMES)
    assert answer.status_code in {200, 409, 422}, answer.content
    text = data.draw(st.sampled_from([b'{"token":"a","csr":"b","genesis":"Yw=="}', b"{}", b"[]"]))
    cut = data.draw(st.integers(0, len(text)))
    body = text[:cut] + data.draw(st.binary(max_size=20)) + text[cut:]
    for method, path in (
        ("POST", "/v1/enroll"),
        ("POST", api.chain_path(agent.chain, "heartbeat")),
        ("PUT", api.chain_path(agent.chain, "envelopes/" + "00" * 16)),
    ):
        answer = web.client.request(method, path, content=body, headers=JSON)
        assert answer.status_code in {401, 409, 422}, answer.content


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=st.fixed_dictionaries(
        {
            "from": st.one_of(st.integers(), st.text(max_size=5)),
            "seen": st.one_of(st.integers(), st.none()),
            "next_seq": st.one_of(st.integers(), st.sampled_from([str(2**63 - 1), "9007199254740993"])),
            "head": st.binary(min_size=32, max_size=32).map(bytes.hex),
            "signature": st.binary(min_size=64, max_size=64).map(bytes.hex),
        }
    )
)
def test_no_heartbeat_makes_it_fail(web: Web, fields: dict[str, Any]) -> None:
    agent = Once.agent(web)
    body = json.dumps({**fields, "nonce": web.site.nonce(agent).hex()}).encode()
    answer = web.client.post(api.chain_path(agent.chain, "heartbeat"), content=body, headers=JSON)
    assert answer.status_code in {200, 409, 422}, answer.content


class Once:
    """One agent for all examples of a test."""

    found: tuple[int, Any] = (0, None)

    @classmethod
    def agent(cls, web: Web) -> Any:
        if cls.found[0] != id(web):
            agent = web.site.ready()
            for i in range(3):
                agent.seal_records(1, b"body%d" % i)
            web.be(agent)
            cls.found = (id(web), agent)
        return cls.found[1]
