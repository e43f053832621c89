"""Random models and their logits, computed by `transformers`."""

import torch
import transformers

TOKENS = torch.arange(80).reshape(2, 40) * 37 % 97
SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def random_model(family, *, kv_heads=2, scaled=True, tied=False, seed=0, **config):
    """A `transformers` model with weights large enough for logits of order one, norms included."""
    rope = {"rope_theta": 5000.0} | (SCALING if scaled else {"rope_type": "default"})
    shape = {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": kv_heads,
        "intermediate_size": 96,
        "vocab_size": 97,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "rope_parameters": rope,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if family == "qwen3":
        shape["head_dim"] = 24  # not hidden / heads
    kind = {"qwen3": transformers.Qwen3Config, "llama": transformers.LlamaConfig}[family]
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(kind(**(shape | config)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.3 if weight.ndim == 1 else 0.15
            weight.copy_(spread * torch.randn(weight.shape) + ("norm" in name))
    return model.eval()


def torch_logits(model, tokens=TOKENS):
    """Float32 logits as an array."""
    with torch.no_grad():
        return model(tokens, use_cache=False).logits.float().numpy()


def reload(folder):
    """What `transformers` makes of a folder, in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
