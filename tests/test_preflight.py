"""A stage that cannot be set up is the user's to mend, and is told before anything is read."""

from tests.support import pipeline, write_config


def test_a_broken_model_is_found_before_the_first_record(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "hello"}\n')
    (tmp_path / "broken.ftz").write_bytes(b"not a model")
    config = write_config(
        tmp_path / "config.yaml",
        name="broken",
        input={"source": "s", "format": "jsonl", "paths": [str(tmp_path / "in.jsonl")]},
        stages=[{"language": {"model": str(tmp_path / "broken.ftz")}}],
        engine={"executor": "inline"},
    )
    done = pipeline("run", config, "--output", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert str(tmp_path / "broken.ftz") in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("documents/*"))
