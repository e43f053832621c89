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
CONFIGS = {
    "qwen3": transformers.Qwen3Config,
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "mistral": transformers.MistralConfig,
    "olmo2": transformers.Olmo2Config,
    "gemma2": transformers.Gemma2Config,
    "gemma3_text": transformers.Gemma3TextConfig,
    "gpt_neox": transformers.GPTNeoXConfig,
}
LOCAL, GLOBAL = "sliding_attention", "full_attention"
# What a small model of a family has beside its shape: windows shorter than the texts, caps that bend scores of order one.
PARTS = {
    "qwen3": {"head_dim": 24},  # not hidden / heads
    "mistral": {"sliding_window": 9},
    "gemma2": {
        "head_dim": 24,
        "query_pre_attn_scalar": 12,
        "sliding_window": 9,
        "layer_types": [LOCAL, GLOBAL, LOCAL],
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 2.0,
    },
    "gemma3_text": {
        "head_dim": 24,
        "query_pre_attn_scalar": 12,
        "sliding_window": 9,
        "layer_types": [LOCAL, LOCAL, GLOBAL],
    },
}
# Other forms of the families: what their configurations may also ask for.
FORMS = {
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, linear positions": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 5000.0}},
    ),
    "qwen3, window in the last layers": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "qwen2": ("qwen2", {}),
    "qwen2, tied, window": (
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 7,
            "max_window_layers": 2,
            "tie_word_embeddings": True,
        },
    ),
    "mistral": ("mistral", {}),
    "mistral, no window": ("mistral", {"sliding_window": None, "head_dim": 24}),
    "olmo2": ("olmo2", {}),
    "olmo2, a key for each head": ("olmo2", {"num_key_value_heads": 4, "attention_bias": True}),
    "gemma2": ("gemma2", {"tie_word_embeddings": True}),
    "gemma2, no caps": (
        "gemma2",
        {"attn_logit_softcapping": None, "final_logit_softcapping": None, "layer_types": None},
    ),
    "gemma3": ("gemma3_text", {"tie_word_embeddings": True}),
    "gemma3, linear positions": (
        "gemma3_text",
        {
            "rope_parameters": {
                GLOBAL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
                LOCAL: {"rope_type": "default", "rope_theta": 100.0},
            }
        },
    ),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox, one after the other": (
        "gpt_neox",
        {"use_parallel_residual": False, "hidden_act": "gelu_fast", "tie_word_embeddings": True},
    ),
    "gpt_neox, no biases of attention": ("gpt_neox", {"attention_bias": False}),
}


def random_model(family, *, kv_heads=2, scaled=True, tied=False, seed=0, **config):
    """A `transformers` model with weights large enough for logits of order one, norms included."""
    rope = {"rope_theta": 5000.0} | (SCALING if scaled else {"rope_type": "default"})
    shape = {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "vocab_size": 97,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "rope_parameters": rope,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if family == "gpt_neox":
        shape["layer_norm_eps"] = 1e-5
        rope["partial_rotary_factor"] = 0.5
    else:
        shape |= {"rms_norm_eps": 1e-5, "num_key_value_heads": kv_heads}
    if family == "gemma3_text":
        near = {"rope_type": "default", "rope_theta": 100.0}
        shape["rope_parameters"] = {GLOBAL: rope, LOCAL: near}
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(
        CONFIGS[family](**(shape | PARTS.get(family, {}) | config))
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.3 if weight.ndim == 1 else 0.15
            ones = name.endswith("weight") and "norm" in name and not family.startswith("gemma")
            weight.copy_(spread * torch.randn(weight.shape) + ones)
    return model.eval()


def torch_logits(model, tokens=TOKENS):
    """Float32 logits as an array."""
    with torch.no_grad():
        return model(tokens, use_cache=False).logits.float().numpy()


def reload(folder):
    """What `transformers` makes of a folder, in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
