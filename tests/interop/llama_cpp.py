"""What llama.cpp says: scores and tokens of a GGUF file, computed in float32 by the library that cyllama ships."""

import torch
from cyllama.llama import llama_cpp

# llama.cpp rounds a context up to a multiple of this; longrope's factors are chosen by it.
CONTEXT = 256
FLOAT32 = 0

llama_cpp.disable_logging()


class Model(llama_cpp.LlamaModel):
    """A loaded file."""

    def __init__(self, path):
        super().__init__(str(path), llama_cpp.LlamaModelParams(), False)
        self.vocab = self.get_vocab()

    @property
    def n_vocab(self):
        """Rows of the head; cyllama 0.2.18 asks the model for them, which does not have them."""
        return self.vocab.n_vocab

    def tokenize(self, text):
        """Ids of a text, with what the file says is put around it, special tokens in it whole."""
        return self.vocab.tokenize(text, True, True)

    def logprobs(self, input_ids):
        """log p(input_ids[t] | input_ids[..t]) for t in 1..T, [T - 1]."""
        params = llama_cpp.LlamaContextParams()
        params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT
        params.n_threads = params.n_threads_batch = 2
        params.type_k = params.type_v = FLOAT32
        params.flash_attn_type = 0
        context = llama_cpp.LlamaContext(self, params, False)
        batch = llama_cpp.LlamaBatch(n_tokens=len(input_ids), embd=0, n_seq_max=1)
        # Logits of every position.
        for position, token in enumerate(input_ids):
            batch.add(token, position, [0], True)
        context.decode(batch)
        logits = torch.tensor([context.get_logits_ith(position) for position in range(len(input_ids) - 1)])
        return logits.log_softmax(-1).gather(1, torch.tensor(input_ids[1:])[:, None])[:, 0]
