"""What all tests here share: the server, the tiny models, and when two scores are the same."""

import json

import pytest
import torch

import gguf_nll
import hone

FIXTURES = hone.ROOT / "tests/fixtures"
MODELS = FIXTURES / "models"


@pytest.fixture(autouse=True)
def one_thread():
    """As in run.sh: in models this small a second thread costs more than it brings, and much more on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    """One server for all tests."""
    with hone.service(tmp_path_factory.mktemp("hone")) as running:
        yield running


@pytest.fixture(scope="session")
def smollm2():
    """The real model and its tokenizer as transformers reads them out of the GGUF file: once, since it takes long."""
    return gguf_nll.load(gguf_nll.MODEL)


def documents_of(name):
    """The documents of a fixture."""
    return json.loads((FIXTURES / "scores" / f"{name}.json").read_text())["documents"]


def assert_same_scores(ours, theirs, tolerance):
    """The NLL and every single log-probability agree."""
    assert ours["nll"] == pytest.approx(theirs["nll"], abs=tolerance)
    for mine, other in zip(ours["logprobs"], theirs["logprobs"], strict=True):
        assert mine == pytest.approx(other, abs=tolerance)
