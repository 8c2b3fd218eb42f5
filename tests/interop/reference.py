"""What transformers and PEFT say: loading a model folder, scoring documents, gradients of an adapter."""

import json

import peft
import torch
import transformers


def load_model(folder, dtype=torch.float32, **options):
    """Loads a Hugging Face folder for evaluation."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options).eval()


def load_complete(folder, dtype=torch.float32):
    """Loads a Hugging Face folder that must have every weight of its model and no other."""
    model, told = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


def load_adapter(model, folder, trainable=False):
    """Puts a PEFT adapter folder on a loaded model."""
    return peft.PeftModel.from_pretrained(model, folder, is_trainable=trainable)


def load_policy(folder, adapter=None):
    """What a run trains: a PEFT adapter on a model, or every weight of the model itself."""
    model = load_model(folder)
    return load_adapter(model, adapter, trainable=True) if adapter else model


def document_logits(model, input_ids):
    """Logits of one document, [T, V]."""
    return model(input_ids=torch.tensor([input_ids]), use_cache=False).logits[0].float()


def document_logprobs(model, input_ids):
    """log p(input_ids[t] | input_ids[..t]) for t in 1..T, [T - 1]."""
    logprobs = document_logits(model, input_ids)[:-1].log_softmax(-1)
    return logprobs.gather(1, torch.tensor(input_ids[1:])[:, None])[:, 0]


def score(model, documents):
    """Log-probabilities of every token after a document's first, and their negative mean over all tokens of all documents."""
    with torch.no_grad():
        logprobs = [document_logprobs(model, document) for document in documents]
    return {
        "logprobs": [exact(values) for values in logprobs],
        "nll": exact(-torch.cat(logprobs).double().mean()),
    }


def adapter_gradients(model, documents):
    """Gradient of the mean NLL (over all tokens of all documents) by trainable parameter name."""
    model.zero_grad()
    (-torch.cat([document_logprobs(model, document) for document in documents]).mean()).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def exact(values):
    """Numbers or nested lists of them with the nine digits that identify a float32."""
    values = values.tolist() if isinstance(values, torch.Tensor) else values
    return [exact(value) for value in values] if isinstance(values, list) else float(f"{values:.9g}")


def write_json(path, value):
    """Writes JSON, one line for each element of the outermost two levels, so that a diff shows what moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(layout(value, 2) + "\n")


def layout(value, depth, indent=""):
    """Formats `value` with the outer `depth` levels spread over lines."""
    inner = indent + "  "
    if depth and isinstance(value, dict) and value:
        rows = [f"{inner}{json.dumps(key)}: {layout(item, depth - 1, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if depth and isinstance(value, list) and value:
        rows = [inner + layout(item, depth - 1, inner) for item in value]
        return "[\n" + ",\n".join(rows) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)
