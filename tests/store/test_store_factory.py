"""From `cache.store` to an open store: each scheme stands in the configuration and in the factory."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from store_helpers import MAKERS, MB, REDIS, FakeClock, job, opened

from gateway import config
from gateway.config import STORE_SCHEMES, redis_url, split_store
from gateway.errors import StoreError
from gateway.model import SystemClock
from gateway.store.factory import OPENERS, StoreOptions, open_store
from gateway.store.layered import LayeredStore
from gateway.store.memory import MemoryStore
from gateway.store.redis.store import RedisStore

OPTIONS: Final = StoreOptions(
    memory_bytes=MB, disk_bytes=MB, max_entry_bytes=MB, clock=SystemClock(), lock_wait_seconds=1
)


def test_every_scheme_that_the_configuration_accepts_can_be_opened() -> None:
    missing = sorted(STORE_SCHEMES.keys() - OPENERS.keys())
    assert not missing, f"gateway/store/factory.py: OPENERS lacks {missing}, which gateway/config/stores.py accepts"


def test_every_scheme_that_can_be_opened_is_accepted_by_the_configuration() -> None:
    missing = sorted(OPENERS.keys() - STORE_SCHEMES.keys())
    assert not missing, f"gateway/config/stores.py: SCHEMES lacks {missing}, which gateway/store/factory.py opens"


@pytest.mark.parametrize("scheme", STORE_SCHEMES)
def test_a_scheme_accepts_what_its_error_message_says(scheme: str) -> None:
    example = STORE_SCHEMES[scheme].usage.replace("PORT", "6379").replace("DB", "0")
    assert split_store(example)[0] == scheme


@pytest.mark.parametrize(("spec", "kind"), [("memory:", MemoryStore), ("sqlite:{}", LayeredStore)])
async def test_factory(spec: str, kind: type, path: Path) -> None:
    store, ledger, _ = open_store(spec.format(path), OPTIONS)
    await works(store, ledger, kind)


@pytest.mark.usefixtures("patience")
async def test_factory_of_a_redis() -> None:
    address = REDIS.address()
    prefix = f"factory-{uuid.uuid4().hex}"
    options = msgspec.structs.replace(OPTIONS, address=address, redis=config.Redis(prefix=prefix), name="one")
    store, ledger, _ = open_store(str(address), options)
    await works(store, ledger, RedisStore)


async def works(store: Any, ledger: Any, kind: type) -> None:
    assert isinstance(store, kind)
    async with opened(store):
        await ledger.record_job(job(noted_at=time.time()))
        assert await ledger.job("j1") is not None
        assert store.ready


@pytest.mark.parametrize("scheme", STORE_SCHEMES)
def test_the_store_of_every_scheme_is_in_the_suite_of_all_stores(scheme: str, path: Path) -> None:
    spec = STORE_SCHEMES[scheme].usage.replace("PATH", str(path)).replace("PORT", "6379").replace("/DB", "/0")
    address = redis_url.redis_address(spec) if config.is_redis(spec) else None
    store, _, _ = open_store(spec, msgspec.structs.replace(OPTIONS, address=address))
    tested = {type(make(path, FakeClock())).__name__ for make in MAKERS.values()}
    assert type(store).__name__ in tested, "store_helpers.py: MAKERS lacks it"


@pytest.mark.parametrize("spec", ["sqlite:", "memory:x", "file"])
def test_factory_refuses_other_kinds(spec: str) -> None:
    with pytest.raises(StoreError):
        open_store(spec, OPTIONS)
