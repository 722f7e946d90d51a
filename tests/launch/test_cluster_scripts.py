"""The scripts of launch/ run with stand-ins for gcloud, srun and others, which note what they were asked.

What they would run on the machines must be a command that `star-jax` takes.
"""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
import yaml

from star_jax.launch.cli import build_parser
from star_jax.launch.experiment import run_config_file, with_changes

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path for path in LAUNCH.rglob("*") if path.suffix in (".sh", ".sbatch"))
ARGUMENTS = [
    "--config",
    "configs/tiny.py",
    "--workdir",
    "gs://bucket/run",
    "--config.data.source=gs://b/my clips",
]

# Notes its arguments, then answers by the first line of the file for what it was asked, which is used up. It is
# called often: Python starts quickly without its packages.
STAND_IN = f"""#!{sys.executable} -IS
"""
STAND_IN += """import json, os, sys
folder = os.environ["STAND_INS"]
name = os.path.basename(sys.argv[0])
with open(f"{folder}/calls.jsonl", "a") as calls:
    calls.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
line = " ".join(sys.argv)
for topic in sorted(os.listdir(f"{folder}/answers")):
    if topic in line:
        path = f"{folder}/answers/{topic}"
        answers = open(path).read().split("\\n")
        open(path, "w").write("\\n".join(answers[1:] or answers[:1]))
        text, _, code = answers[0].partition("#")
        if text:
            print(text.replace("|", "\\n"))
        sys.exit(int(code or 0))
"""


class Machines:
    """Stand-ins in front of PATH, their answers and what they were asked."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "answers").mkdir()
        for name in ("gcloud", "srun", "scontrol", "kubectl", "xpk", "sleep", "star-jax"):
            script = folder / "bin" / name
            script.write_text(STAND_IN)
            script.chmod(0o755)

    def answer(self, topic: str, *answers: str) -> None:
        """Answers to calls that contain `topic`: TEXT or TEXT#EXIT_CODE, one after the other, the last for ever."""
        (self.folder / "answers" / topic).write_text("\n".join(answers))

    def run(self, script: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        environ = {**os.environ, "PATH": path, "STAND_INS": str(self.folder), **environ}
        command = ["bash", str(LAUNCH / script), *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)

    def calls(self, *words: str) -> list[list[str]]:
        """Calls that contain all words."""
        log = self.folder / "calls.jsonl"
        calls = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [call for call in calls if all(word in " ".join(call) for word in words)]


@pytest.fixture
def machines(tmp_path) -> Machines:
    return Machines(tmp_path)


def check_command(words: list[str], arguments: list[str] = ARGUMENTS) -> None:
    """The words from `star-jax` on are a training command with these arguments, and its config exists."""
    words = words[words.index("star-jax") + 1 :]
    args, rest = build_parser().parse_known_args(words)
    assert args.command == "train" and args.workdir == arguments[3]
    with_changes(run_config_file(args.config), rest)
    assert words[-len(arguments) :] == arguments


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_bash(script):
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script):
    result = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), script], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(0, 0, False), (2, 0, False), (143, 99, True), (134, 3, True), (1, 10, False)],
)
def test_slurm_requeues_what_can_go_on(machines, code, restarts, requeued):
    (machines.folder / "bin" / "activate").touch()
    machines.answer("srun", f"#{code}")
    result = machines.run(
        "slurm/train.sbatch",
        *ARGUMENTS,
        VENV=str(machines.folder),
        SLURM_SUBMIT_DIR="/",
        SLURM_CPUS_PER_TASK="12",
        SLURM_JOB_ID="7",
        SLURM_RESTART_COUNT=str(restarts),
    )
    assert result.returncode == code, result.stderr
    [call] = machines.calls("srun")
    check_command(call)
    assert [c[1:] for c in machines.calls("scontrol")] == ([["requeue", "7"]] if requeued else [])


def test_slurm_options_come_before_the_commands():
    lines = (LAUNCH / "slurm" / "train.sbatch").read_text().splitlines()
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert len(options) > 5
    assert all(line.startswith("#") or not line for line in lines[: options[-1]])


def test_kubernetes_manifest(machines):
    environ = {"IMAGE": "registry/star:gpu", "NODES": "4", "NAME": "run", "CLAIM": "videos"}
    assert machines.run("kubernetes/train.sh", *ARGUMENTS, **environ).returncode == 0
    assert machines.calls("kubectl") == [["kubectl", "apply", "-f", "-"]]
    result = machines.run("kubernetes/train.sh", *ARGUMENTS, **environ, DRY_RUN="1")
    service, job = yaml.safe_load_all(result.stdout)
    assert "$" not in result.stdout
    pod = job["spec"]["template"]["spec"]
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4
    assert pod["subdomain"] == service["metadata"]["name"] == "run"
    assert service["spec"] == {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {"job-name": "run"},
    }
    [container] = pod["containers"]
    check_command(container["command"] + container["args"])
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert variables == {"JAX_COORDINATOR_ADDRESS": "run-0.run:8476", "JAX_NUM_PROCESSES": "4"}
    assert pod["volumes"][0] == {"name": "data", "persistentVolumeClaim": {"claimName": "videos"}}


def test_kubernetes_needs_an_image(machines):
    result = machines.run("kubernetes/train.sh", *ARGUMENTS)
    assert result.returncode != 0 and "set IMAGE" in result.stderr
    assert not machines.calls("kubectl")


POD = {"ZONE": "zone-a", "IMAGE": "region-docker.pkg.dev/p/r/star:tpu"}


def test_tpu_run_asks_for_another_slice_and_resumes(machines):
    # Absent, created, there; taken away while training; deleted, created, there again; done.
    machines.answer("describe", "#1", "ACTIVE", "SUSPENDED", "SUSPENDED", "#1", "PROVISIONING", "ACTIVE")
    machines.answer("docker inspect", "#1")
    machines.answer("docker wait", "|", "0|0")
    result = machines.run("tpu/pod.sh", "run", *ARGUMENTS, **POD, ACCELERATOR_TYPE="v6e-16")
    assert result.returncode == 0, result.stderr
    assert "preempted" in result.stderr and "done" in result.stderr
    created = machines.calls("queued-resources", "create")
    assert len(created) == 2 and len(machines.calls("queued-resources", "delete")) == 1
    assert {"--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e", "--spot"} <= set(created[0])
    started = machines.calls("docker run")
    assert len(started) == 2
    for call in started:
        assert "--worker=all" in call
        remote = call[-1].removeprefix("--command=")
        check_command(shlex.split(remote))
        assert POD["IMAGE"] in remote


@pytest.mark.parametrize(("codes", "starts", "code"), [("2|2", 1, 2), ("1|134", 3, 1), ("0|0", 1, 0)])
def test_tpu_run_resumes_after_failures_but_not_for_ever(machines, codes, starts, code):
    machines.answer("describe", "ACTIVE")
    machines.answer("docker inspect", "#1")
    machines.answer("docker wait", codes)
    result = machines.run("tpu/pod.sh", "run", *ARGUMENTS, **POD, MAX_RESTARTS="2")
    assert result.returncode == code, result.stderr
    assert len(machines.calls("docker run")) == starts
    assert not machines.calls("create")


def test_tpu_run_joins_what_is_running(machines):
    machines.answer("describe", "ACTIVE")
    machines.answer("docker wait", "", "0|0")  # the first answer: ssh lost the connection
    result = machines.run("tpu/pod.sh", "run", *ARGUMENTS, **POD)
    assert result.returncode == 0, result.stderr
    assert not machines.calls("docker run") and len(machines.calls("docker wait")) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stop"], ["--worker=all", "docker stop --time=600 star"]),
        (["delete"], ["queued-resources delete star", "--zone=zone-a"]),
        (["logs"], ["--worker=0", "docker logs"]),
        (["logs", "3"], ["--worker=3", "docker logs"]),
        (["ssh", "all", "free -g"], ["--worker=all", "--command=free -g"]),
        (["setup"], ["configure-docker region-docker.pkg.dev", f"docker pull --quiet {POD['IMAGE']}"]),
    ],
)
def test_tpu_pieces(machines, arguments, words):
    assert machines.run("tpu/pod.sh", *arguments, **POD).returncode == 0
    assert len(machines.calls(*words)) == 1


def test_tpu_setup_copies_the_checkpoint(machines):
    assert machines.run("tpu/pod.sh", "setup", **POD, CHECKPOINT="gs://b/star").returncode == 0
    assert (
        len(machines.calls("--worker=all", "storage rsync --recursive gs://b/star /var/star/checkpoint")) == 1
    )
    assert machines.run("tpu/pod.sh", "train", *ARGUMENTS, **POD).returncode == 0
    assert len(machines.calls("docker run", "--volume=/var/star:/data")) == 1


def test_tpu_script_explains_itself(machines):
    result = machines.run("tpu/pod.sh", **POD)
    assert result.returncode == 2 and "pod.sh run --config" in result.stdout
    assert "set ZONE" in machines.run("tpu/pod.sh", "create").stderr
    assert (
        "set RUNTIME_VERSION" in machines.run("tpu/pod.sh", "create", **POD, ACCELERATOR_TYPE="v9-8").stderr
    )


def test_tpu_run_on_two_slices(machines):
    machines.answer("describe", "#1", "ACTIVE")
    machines.answer("docker inspect", "#1")
    machines.answer("docker wait", "0|0")
    result = machines.run("tpu/pod.sh", "run", *ARGUMENTS, **POD, NUM_SLICES="2")
    assert result.returncode == 0, result.stderr
    [created] = machines.calls("queued-resources", "create")
    assert {"--node-count=2", "--node-prefix=star"} <= set(created) and "--node-id=star" not in created
    [started] = machines.calls("docker run")
    assert {"queued-resources", "--node=all", "--worker=all"} <= set(started)
    check_command(shlex.split(started[-1].removeprefix("--command=")))
    assert machines.run("tpu/pod.sh", "logs", "3", **POD, NUM_SLICES="2", SLICE="1").returncode == 0
    assert len(machines.calls("--node=1", "--worker=3", "docker logs")) == 1


@pytest.mark.parametrize("slices", ["1", "2"])
def test_xpk_workload(machines, slices):
    environ = {**POD, "CLUSTER": "c", "PROJECT": "p", "NUM_SLICES": slices}
    assert machines.run("tpu/xpk.sh", *ARGUMENTS, **environ).returncode == 0
    [call] = machines.calls("xpk workload create")
    assert {f"--num-slices={slices}", f"--docker-image={POD['IMAGE']}", "--max-restarts=50"} <= set(call)
    check_command(shlex.split(call[call.index("--command") + 1]))


def test_evaluating_clips_with_several_seeds(machines):
    clip = machines.folder / "horse.mp4"
    clip.touch()
    out = machines.folder / "out"
    options = ["--checkpoint", "DIR", "--steps", "4"]
    result = machines.run("evaluate_clips.sh", str(out), str(clip), "--", *options, SEEDS="3 5")
    assert result.returncode == 0, result.stderr
    calls = [build_parser().parse_args(call[1:]) for call in machines.calls("star-jax")]
    assert [args.command for args in calls] == [
        "degrade",
        "upscale",
        "degrade",
        "upscale",
        "evaluate",
        "evaluate",
    ]
    assert [args.seed for args in calls if args.command == "degrade"] == [3, 5]
    assert all(args.steps == 4 and args.checkpoint == "DIR" for args in calls if args.command == "upscale")
    assert (out / "truth" / "horse.mp4").resolve() == clip
    assert calls[-1].json == f"{out}/scores.json" and calls[-1].input == f"{out}/low"


def test_side_by_side_resumes_and_mixes_nothing(machines):
    clip = machines.folder / "horse.mp4"
    clip.touch()
    (machines.folder / "bin" / "python").symlink_to("star-jax")
    out = machines.folder / "out"

    def run(**environ: str) -> subprocess.CompletedProcess:
        environ = {"SEEDS": "3", "FRAMES": "2", "SCORED": "1", "PEERS": "span=module/span", **environ}
        return machines.run("side_by_side.sh", str(out), str(clip), "--", "--steps", "4", **environ)

    assert run().returncode != 0  # the stand-in degrades nothing
    assert len(machines.calls("degrade")) == 1 and not machines.calls("upscale")
    whole = out / "degraded" / "seed_3" / "horse"
    whole.mkdir(parents=True)
    for number in range(3):
        (whole / f"{number:05}.png").touch()
    result = run()
    assert result.returncode == 0, result.stderr
    assert len(machines.calls("degrade")) == 1
    low = out / "low" / "seed_3" / "horse"
    assert {path.name for path in low.iterdir()} == {"00000.png", "00001.png"}
    peer, upscale, evaluate = machines.calls()[-3:]
    command = f"-m star_jax.launch.ncnn_model module/span {out}/low {out}/results/span --frames 1"
    assert peer[1:] == command.split()
    args = build_parser().parse_args(upscale[1:])
    assert args.recursive and args.skip_existing and args.steps == 4
    args = build_parser().parse_args(evaluate[1:])
    assert args.paths == [f"star-jax={out}/results/star-jax", f"span={out}/results/span", f"{out}/truth"]
    assert args.frames == 1 and args.markdown == f"{out}/scores.md"
    for change in ({"RECIPE": "heavy"}, {"PEERS": "span=module/other"}):
        result = run(**change)
        assert result.returncode == 2 and "choose another OUT" in result.stderr


@pytest.mark.parametrize("name", ["gpu", "tpu"])
def test_docker_images_install_extras_that_exist(name, monkeypatch):
    settings = {}
    monkeypatch.setattr(setuptools, "setup", settings.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    text = (LAUNCH / "docker" / f"Dockerfile.{name}").read_text()
    extras = re.search(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)[1].split(",")
    assert set(extras) <= settings["extras_require"].keys()
    python = tuple(map(int, re.search(r"^FROM python:(\d+)\.(\d+)", text, re.MULTILINE).groups()))
    assert python >= tuple(map(int, settings["python_requires"].removeprefix(">=").split(".")))


def test_gpu_check_runs_what_star_jax_takes_and_notes_how_each_part_ended(machines):
    machines.answer("layers", "measured", "#1")
    folder = machines.folder / "reports"
    result = machines.run("gpu_check.sh", str(folder))
    assert result.returncode == 1 and "exit code 1" in result.stdout
    ended = dict(line.split("\t")[:2] for line in (folder / "parts.tsv").read_text().splitlines())
    assert ended["layers"] == "0" and ended["layers-backward"] == "1" and ended["forward"] == "0"
    calls = machines.calls("benchmark")
    assert len(calls) == len(ended) >= 8
    assert sorted(Path(call[-1]).stem for call in calls) == sorted(ended)
    assert len((folder / "groups").read_text().split()) == len(
        calls
    )  # what is stopped while others are timed
    for call in calls:
        args, rest = build_parser().parse_known_args(call[1:])
        assert args.json and args.run_benchmark
        if "--config" in call:
            with_changes(run_config_file(args.config), rest)
        else:
            assert not rest


def test_gpu_check_begins_nothing_without_time(machines):
    result = machines.run("gpu_check.sh", str(machines.folder / "reports"), SECONDS_IN_ALL="5")
    assert result.returncode == 0 and result.stdout.count("left out") >= 8
    assert machines.calls("benchmark") == []
