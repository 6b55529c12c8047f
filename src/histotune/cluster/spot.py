"""The notice before AWS takes a spot machine back: the run stops as at SIGTERM, and the same command goes on elsewhere.

The instance metadata service (IMDSv2) is asked every few seconds, from a thread that never holds a run up:
``PUT /latest/api/token``, then ``GET /latest/meta-data/spot/instance-action``, which is not found until about two
minutes before the end. Outside EC2 nothing is asked at all.
"""

from __future__ import annotations

import http.client
import logging
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from histotune.tools.errors import UserError
from histotune.tools.files import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LOG = logging.getLogger(__name__)
ENDPOINT = "http://169.254.169.254"
ENDPOINT_VARIABLE, OFF_VARIABLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_DISABLED"
INTERVAL_VARIABLE = "HISTOTUNE_SPOT_INTERVAL_S"
VENDOR_FILES = (Path("/sys/class/dmi/id/sys_vendor"), Path("/sys/class/dmi/id/board_vendor"))
ACTION_PATH = "/latest/meta-data/spot/instance-action"
TOKEN_LIFE_S = 21600
MOST_BYTES = 4096
OK, UNAUTHORIZED, NOT_FOUND = 200, 401, 404


@dataclass(frozen=True)
class SpotConfig:
    """Where and how often the notice is looked for.

    Attributes:
        endpoint: Of the instance metadata service.
        interval_s: Between two looks, seconds; AWS recommends 5.
        timeout_s: A look that takes longer is given up.
    """

    endpoint: str = ENDPOINT
    interval_s: float = 5.0
    timeout_s: float = 1.0


@dataclass(frozen=True)
class SpotNotice:
    """That the machine is taken back.

    Attributes:
        action: ``terminate``, ``stop`` or ``hibernate``.
        time: When, as AWS writes it.
    """

    action: str
    time: str


class MetadataClient:
    """Asks the instance metadata service; its token is kept and renewed, and no proxy is ever used."""

    def __init__(self, config: SpotConfig) -> None:
        self._config = config
        self._token = ""

    def notice(self) -> SpotNotice | None:
        """Return the notice; None while there is none.

        Raises:
            OSError: The service can't be reached or answers something else.
        """
        for _ in range(2):
            if not self._token:
                self._token = self._asked("PUT", "/latest/api/token", self._life)[1]
            status, text = self._asked("GET", ACTION_PATH, {"X-aws-ec2-metadata-token": self._token})
            if status != UNAUTHORIZED:
                break
            self._token = ""
        if status == NOT_FOUND:
            return None
        if status != OK:
            raise OSError(f"the metadata service answers {status}")
        return _parsed(text)

    @property
    def _life(self) -> dict[str, str]:
        return {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_LIFE_S)}

    def _asked(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        place = urlsplit(self._config.endpoint)
        connection = http.client.HTTPConnection(place.hostname or "", place.port or 80, timeout=self._config.timeout_s)
        try:
            connection.request(method, place.path.rstrip("/") + path, headers=dict(headers))
            answer = connection.getresponse()
            text = answer.read(MOST_BYTES).decode("utf-8", errors="replace")
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()
        if method == "PUT" and answer.status != OK:
            raise OSError(f"the metadata service gives no token: {answer.status}")
        return answer.status, text


def watch_spot(
    environment: Mapping[str, str] | None = None, stop: Callable[[SpotNotice], None] | None = None
) -> threading.Thread | None:
    """Begin to look for the notice, where this is a machine of EC2; when it comes, this process gets SIGTERM.

    Args:
        environment: Of this process, whose variables name another endpoint, switch it off, or change the interval.
        stop: What to do with the notice; by default :func:`stop_run`.

    Returns:
        The thread, which ends with the process; None where nothing is asked.

    Raises:
        UserError: The interval is no number of seconds.
    """
    known = os.environ if environment is None else environment
    if known.get(OFF_VARIABLE, "").lower() == "true" or not (known.get(ENDPOINT_VARIABLE) or is_on_ec2()):
        return None
    config = SpotConfig(known.get(ENDPOINT_VARIABLE) or ENDPOINT, _interval(known))
    thread = threading.Thread(target=_look, args=(config, stop or stop_run), name="spot notice", daemon=True)
    thread.start()
    return thread


def is_on_ec2() -> bool:
    """Return whether this machine says that it is one of EC2; read from a file, nobody is asked."""
    for path in VENDOR_FILES:
        try:
            if path.read_text(encoding="utf-8").strip().startswith("Amazon EC2"):
                return True
        except OSError:
            continue
    return False


def stop_run(notice: SpotNotice) -> None:
    """Stop this process as SIGTERM does: a training writes its checkpoint, finished shards are kept."""
    LOG.warning(
        "AWS takes this spot machine back (%s at %s): stopping now; what is done is kept, and the same command goes on "
        "where this cache and folder are",
        notice.action,
        notice.time,
    )
    os.kill(os.getpid(), signal.SIGTERM)


def _look(config: SpotConfig, stop: Callable[[SpotNotice], None]) -> None:
    """Look until the notice comes; a service that can't be reached is asked again, without a word."""
    client, wait = MetadataClient(config), threading.Event()
    while True:
        try:
            notice = client.notice()
        except OSError as error:
            LOG.debug("no answer of the instance metadata service: %s", error)
            notice = None
        if notice is not None and notice.action == "hibernate":
            LOG.warning("AWS sends this spot machine to sleep; the run goes on when it wakes")
            return
        if notice is not None:
            stop(notice)
            return
        wait.wait(config.interval_s)


def _parsed(text: str) -> SpotNotice:
    """Return what a notice says; one that can't be read is one all the same: the machine goes."""
    try:
        said = parse_json(text)
        return SpotNotice(str(said["action"]), str(said["time"]))
    except (ValueError, KeyError, TypeError):
        return SpotNotice("terminate", "an unknown time")


def _interval(known: Mapping[str, str]) -> float:
    text = known.get(INTERVAL_VARIABLE, "")
    try:
        found = float(text) if text else SpotConfig.interval_s
    except ValueError:
        found = 0.0
    if not 0 < found <= 60:
        raise UserError(
            f"{INTERVAL_VARIABLE} is the time between two looks for the spot notice, in seconds",
            value=text,
            allowed="more than 0, at most 60",
            fix=f"unset {INTERVAL_VARIABLE}",
        )
    return found
