"""The exports: what Prometheus, a job page and MLflow get, and that none of them can do harm."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Checkout
from history_builders import SAMPLE, nights, write_history
from run_builders import HOSTILE, write_run
from test_report import check, full, write_verdict

from harness.export import PROMETHEUS, export, step_summary, tracking
from harness.paths import ROOT
from harness.report import Report, gather, save

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: str) -> Series:
    """The samples of a Prometheus text by name and labels; strict about all that it reads."""
    samples: Series = {}
    helped: list[str] = []
    current = ""
    assert text.endswith("\n")
    for line in text.removesuffix("\n").split("\n"):
        if found := re.fullmatch(r"# HELP ([a-z0-9_]+) \S.*", line):
            current = found[1]
            assert current not in helped
            helped.append(current)
        elif line.startswith("#"):
            assert line == f"# TYPE {current} gauge"
        else:
            found = re.fullmatch(
                r'([a-z0-9_]+)\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\} (\S+)', line
            )
            assert found and found[1] == current, line
            pairs = re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', found[2])
            assert len(dict(pairs)) == len(pairs)
            key = current, tuple((name, re.sub(r"\\(.)", r"\1", value)) for name, value in pairs)
            assert key not in samples, line
            samples[key] = float(found[3])
    return samples


def made(root: Path) -> Report:
    report = gather(root / "results", root / "golden", root)
    save(report, root / "results")
    return report


def exported(root: Path, **environment: str) -> tuple[list[str], list[str]]:
    return export(made(root), root / "results", environment)


def series(root: Path) -> Series:
    return parse((root / "results" / PROMETHEUS).read_text(encoding="utf-8"))


def values(samples: Series, name: str, **labels: str) -> list[float]:
    return [
        value
        for (family, found), value in samples.items()
        if family == f"bert_squad_{name}" and labels.items() <= dict(found).items()
    ]


def test_prometheus_tells_of_runs_and_the_verdict(tmp_path: Path) -> None:
    full(tmp_path)
    write_run(tmp_path, "minilm-sample/ort-cpu-fp32-batch16", slowness=2.0)
    assert exported(tmp_path) == ([], [])
    samples = series(tmp_path)
    run = {
        "profile": "minilm-sample", "backend": "ort-cpu", "precision": "fp32", "batch": "8",
        "device": "Test CPU (2 cores)", "run": "minilm-sample/ort-cpu-fp32",
    }  # fmt: skip
    assert values(samples, "exact_match", **run) == [75.0]
    assert values(samples, "f1", **run) == [80.5]
    assert values(samples, "qps", **run) == [800.0]
    assert values(samples, "qps") == [800.0, 400.0]
    assert values(samples, "batch_latency_seconds", quantile="0.99", **run) == [0.01]
    assert values(samples, "verify_status", status="fail", **run) == [1.0]
    assert values(samples, "verify_status") == [0.0, 1.0, 0.0]
    assert values(samples, "verify_checks", status="pass") == [1.0]
    assert values(samples, "run_timestamp_seconds", **run) == [1767323046.0]


def test_prometheus_tells_of_nights(tmp_path: Path) -> None:
    full(tmp_path)
    write_history(tmp_path, nights(SAMPLE, [800.0] * 6))
    exported(tmp_path)
    samples = series(tmp_path)
    assert values(samples, "night_state", state="quiet", machine="bench-1") == [1.0]
    assert sum(values(samples, "night_state")) == 1
    assert values(samples, "night_alarms") == [0.0]
    assert math.isclose(values(samples, "night_baseline_qps")[0], 800, rel_tol=0.02)


def test_prometheus_gives_no_verdict_on_another_run(tmp_path: Path) -> None:
    full(tmp_path)
    write_run(tmp_path, finished="2026-01-02T03:04:07Z")
    exported(tmp_path)
    assert not values(series(tmp_path), "verify_status")


def test_prometheus_labels_are_escaped(tmp_path: Path) -> None:
    write_run(tmp_path, device={"name": HOSTILE + "\\"}, finished=HOSTILE)
    exported(tmp_path)
    ((_, labels),) = {key for key in series(tmp_path) if key[0] == "bert_squad_f1"}
    assert '"><script>' in dict(labels)["device"]
    assert dict(labels)["device"].endswith("\\")


def test_names_in_the_docs_are_those_of_the_export(tmp_path: Path) -> None:
    full(tmp_path)
    write_history(tmp_path, nights(SAMPLE, [800.0] * 6))
    exported(tmp_path)
    documented = set(re.findall(r"`bert_squad_[a-z_0-9]+`", (ROOT / "docs/report.md").read_text()))
    assert documented == {f"`{name}`" for name, _ in series(tmp_path)}


def test_the_step_summary_is_appended_to(tmp_path: Path) -> None:
    full(tmp_path)
    summary = tmp_path / "summary.md"
    summary.write_text("what an earlier step said\n")
    done, warnings = exported(tmp_path, GITHUB_STEP_SUMMARY=str(summary))
    assert done == [f"step summary: appended to {summary}"]
    assert warnings == []
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("what an earlier step said\n# BERT Base")
    assert text.endswith((tmp_path / "results" / "report.md").read_text(encoding="utf-8"))


def test_every_job_gets_the_summary_of_what_has_not_changed(
    checkout: Checkout, tmp_path: Path
) -> None:
    results = checkout.root / "results"
    dataset = f"DATASET={checkout.dataset}"
    # The last verdict may be another test's; and a report that has gone is made again.
    (results / "report.md").unlink(missing_ok=True)
    assert "report: results/report.html" in checkout.make("all", dataset).stdout
    files = [path for path in results.rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    page = tmp_path / "page.md"
    page.write_text("what an earlier step said\n")
    done = checkout.make("all", dataset, GITHUB_STEP_SUMMARY=str(page))
    assert done.returncode == 0, done.stderr
    assert f"step summary: appended to {page}" in done.stdout
    report = (results / "report.md").read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8") == f"what an earlier step said\n{report}"
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_a_long_step_summary_is_cut_between_lines(tmp_path: Path) -> None:
    summary, markdown = tmp_path / "summary.md", tmp_path / "report.md"
    summary.write_bytes(b"x" * (step_summary.MOST_BYTES - 200))
    markdown.write_text("Zeile mit ü\n" * 100, encoding="utf-8")
    step_summary.append(summary, markdown)
    assert summary.stat().st_size <= step_summary.MOST_BYTES
    lines = summary.read_bytes()[step_summary.MOST_BYTES - 200 :].decode().splitlines()
    assert set(lines[:-2]) == {"Zeile mit ü"}
    assert lines[-1].startswith("(cut here")
    size = summary.stat().st_size
    summary.write_bytes(b"x" * step_summary.MOST_BYTES)
    assert "full" in step_summary.append(summary, markdown)
    assert size <= summary.stat().st_size == step_summary.MOST_BYTES


def test_a_failing_export_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full(tmp_path)
    monkeypatch.setattr("harness.export.prometheus.text", lambda report: 1 / 0)
    done, warnings = exported(tmp_path, GITHUB_STEP_SUMMARY=str(tmp_path / "no" / "such"))
    assert done == []
    assert [line.split(":")[0] for line in warnings] == ["Prometheus", "step summary"]
    assert not any("\n" in line for line in warnings)


def test_a_missing_mlflow_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    _, warnings = exported(tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert len(warnings) == 1
    assert "-m pip install -r requirements-mlflow.txt" in warnings[0]


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Let `body` run instead of MLflow's client."""
    script = tmp_path / "client.py"
    script.write_text(f"import json, sys, time\nrequest = json.load(sys.stdin)\n{body}\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    real = subprocess.run
    monkeypatch.setattr(
        "harness.export.tracking.subprocess.run",
        lambda command, **options: real([sys.executable, str(script)], **options),
    )


def test_mlflow_gets_params_metrics_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(tmp_path)
    taken = tmp_path / "taken.json"
    stand_in(
        tmp_path,
        monkeypatch,
        f"json.dump(request, open({str(taken)!r}, 'w')); print('logged run 7')",
    )
    done, warnings = exported(tmp_path, MLFLOW_TRACKING_URI="http://me:secret@127.0.0.1:9/x?key=1")
    assert warnings == []
    assert done == ["MLflow: logged run 7 at http://127.0.0.1:9/x"]
    request = json.loads(taken.read_text())
    assert request["uri"] == "http://me:secret@127.0.0.1:9/x?key=1"
    assert request["experiment"] == "bert-squad"
    assert request["params"]["options.backend"] == "ort-cpu"
    assert request["params"]["environment.packages.numpy"] == "2.4.6"
    assert request["metrics"]["f1"] == 80.5
    assert request["metrics"]["latency_p99_ms"] == 10.0
    assert request["tags"]["verify_status"] == "fail"
    names = {Path(path).name for path in request["artifacts"]}
    assert names >= {"report.html", "verify.json", "run.json", "predictions.json"}
    assert "logits.npz" not in names


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("time.sleep(60)", "in 1 s"),
        ("sys.exit('no: ' + request['uri'])", "no: http://127.0.0.1:9"),
        ("sys.exit(1)", "no reason given"),
    ],
)
def test_an_unwilling_mlflow_is_a_warning_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    full(tmp_path)
    stand_in(tmp_path, monkeypatch, body)
    monkeypatch.setattr(tracking, "MOST_SECONDS", 1.0)
    began = time.monotonic()
    done, (warning,) = exported(tmp_path, MLFLOW_TRACKING_URI="http://me:secret@127.0.0.1:9")
    assert time.monotonic() - began < 20
    assert done == []
    assert said in warning
    assert "make report" in warning
    assert "secret" not in warning


def test_the_command_survives_its_exports(tmp_path: Path) -> None:
    """scripts/report.py in a checkout of its own: warnings, the report, and success."""
    full(tmp_path)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    code = (
        "import sys; from pathlib import Path; import harness.paths as p; "
        f"root = Path({str(tmp_path)!r}); "
        "p.ROOT, p.RESULTS, p.GOLDEN = root, root / 'results', root / 'golden'; "
        "import runpy; sys.argv = ['report.py']; "
        f"runpy.run_path({str(ROOT / 'scripts/report.py')!r}, run_name='__main__')"
    )
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT / "scripts"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "no" / "such"), "MLFLOW_TRACKING_URI": "nowhere://x",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("report: ")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["warning"] * 2


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """The address of a real server on loopback."""
    uri = f"http://127.0.0.1:{free_port()}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
        "--port", uri.rpartition(":")[2], "--workers", "1",
        "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination", str(tmp_path / "artifacts"),
    ]  # fmt: skip
    log = (tmp_path / "server.log").open("wb")
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=5):
                    break
            except OSError:
                assert server.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield uri
    finally:
        server.terminate()
        server.wait(30)
        log.close()


@pytest.mark.full
def test_a_real_mlflow_keeps_the_run_once(tmp_path: Path, mlflow_server: str) -> None:
    mlflow = pytest.importorskip("mlflow")
    folder = full(tmp_path)
    for said in ("logged run", "is there already"):
        done, warnings = exported(tmp_path, MLFLOW_TRACKING_URI=mlflow_server)
        assert warnings == []
        assert said in done[0]
    client = mlflow.MlflowClient(tracking_uri=mlflow_server)
    experiment = client.get_experiment_by_name("bert-squad")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "minilm-sample/ort-cpu-fp32"
    assert run.data.metrics["qps"] == 800.0
    assert run.data.params["options.precision"] == "fp32"
    assert run.data.tags["verify_status"] == "fail"
    # Artifacts come back as they went, through the server.
    got = client.download_artifacts(run.info.run_id, "run.json", str(tmp_path))
    assert Path(got).read_bytes() == (folder / "run.json").read_bytes()
    # Another verdict on the same run is another entry.
    write_verdict(folder, check("f1", "pass"))
    assert "logged run" in exported(tmp_path, MLFLOW_TRACKING_URI=mlflow_server)[0][0]
    assert len(client.search_runs([experiment.experiment_id])) == 2


@pytest.mark.full
def test_no_mlflow_server_is_a_warning_in_time(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    full(tmp_path)
    began = time.monotonic()
    done, (warning,) = exported(tmp_path, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    assert done == []
    assert "did not take the run" in warning
    assert time.monotonic() - began < tracking.MOST_SECONDS
