"""How long a policy takes from PUT to every worker, under load: `python -m loadtests.policychange`.

The admin API answers when every worker acts on the policy, so the time of the call is an upper bound: it holds the
write to the store with its fsync, the audit record, and the way to the workers and back.
"""

import http.client
import json
import tempfile
import threading
import time
from pathlib import Path

from loadtests import models, wrk
from loadtests.models import SEED
from loadtests.processes import Serve, end_on_sigterm
from loadtests.verdicts import percentile

CHANGES, WORKERS, CONNECTIONS, REACH_MS = 60, 2, 8, 100.0
PATH = "/admin/v1/policies/tiny"
LOAD_S = 8


def document(slots: int) -> bytes:
    """A policy that gives the second version so many slots."""
    variants = [{"name": name, "model": f"tiny:{version}"} for name, version in (("stable", 1), ("other", 2))]
    spec = {
        "variants": variants,
        "unit": {"from": [{"header": "x-user-id"}]},
        "split": {"stable": 10_000 - slots, "other": slots},
    }
    return json.dumps(
        {"apiVersion": "tidegate/v1", "kind": "TrafficPolicy", "metadata": {"name": "tiny"}, "spec": spec}
    ).encode()


def change(port: int, generation: int, slots: int) -> float:
    """Milliseconds until every worker acts on it. Raises RuntimeError where one does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"if-match": f'"{generation}"'} if generation else {}
    started = time.perf_counter()
    connection.request("PUT", PATH, document(slots), headers)
    answer = connection.getresponse()
    body = answer.read()
    took_ms = (time.perf_counter() - started) * 1000
    connection.close()
    if answer.status != 200 or not json.loads(body)["in_force_everywhere"]:
        raise RuntimeError(f"{answer.status}: {body.decode()[:500]}")
    return took_ms


def main() -> None:
    """Change shares under load and print how long each change took."""
    end_on_sigterm()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = folder / "models"
        for version in (1, 2):
            models.put_version(repository, "tiny", version, models.tiny(SEED + version))
        (repository / "tiny/model.yaml").write_text("version_policy: {all: true}\n")
        payload = models.json_payload("tiny", models.TINY_SIZES[0])
        with Serve(folder, WORKERS).server(repository, folder / "data") as server:
            server.wait_ready()
            assert server.admin_port is not None, "tidegate has one"
            change(server.admin_port, 0, 1)
            found: list[wrk.WrkResult] = []
            load = threading.Thread(
                target=lambda: found.append(wrk.run(payload, server.port, CONNECTIONS, LOAD_S, folder))
            )
            load.start()
            port = server.admin_port
            took = [change(port, generation, 100 * generation) for generation in range(1, CHANGES + 1)]
            load.join()
    p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
    verdict = "reached" if p99 < REACH_MS else "MISSED"
    print(f"policy applied -> on {WORKERS} workers, {CHANGES} changes under load: p50 {p50:.1f} ms, p99 {p99:.1f} ms,")
    print(f"most {max(took):.1f} ms (reach: p99 < {REACH_MS:.0f} ms, {verdict})")
    for result in found:
        print(f"load: {result.requests_per_second:.0f} req/s, {result.non_2xx} answers that were not 2xx")


if __name__ == "__main__":
    main()
