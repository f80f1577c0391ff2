"""Asking the broker what no row tells: whether it answers, and how long its queues are."""

from collections.abc import Collection

from redis import Redis
from redis.exceptions import RedisError

from taskserver.diagnosis.facts import Broker


def measure_broker(redis: Redis, queues: Collection[str]) -> Broker:
    """Return the lengths of the queues; where Redis does not answer, why."""
    names = sorted(queues)
    try:
        with redis.pipeline(transaction=False) as pipeline:
            pipeline.ping()
            for name in names:
                pipeline.llen(name)
            _, *lengths = pipeline.execute()
    except RedisError as error:
        return Broker(error=str(error) or type(error).__name__)
    return Broker(dict(zip(names, lengths, strict=True)))
