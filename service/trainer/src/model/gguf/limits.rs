//! What a GGUF file cannot say about a model: what llama.cpp has built in for a family must be as the model has it.

use crate::model::config::Config;
use crate::model::family::Architecture;
use crate::model::rope::Scaling;

/// Why llama.cpp could not compute this model, if so. `read` is the shape that its file would be read as.
pub(super) fn problem(config: &Config, read: &Config) -> Option<String> {
    let (architecture, family) = (config.architecture, config.family);
    let llama = matches!(architecture, Architecture::Llama | Architecture::Mistral);
    let gemma = matches!(architecture, Architecture::Gemma | Architecture::Gemma2);
    // Keys that llama.cpp does not have; it knows the values by family.
    let differs = [
        ("query_pre_attn_scalar", read.query_pre_attn_scalar != config.query_pre_attn_scalar),
        ("attn_logit_softcapping", read.attn_logit_softcapping.is_some() != config.attn_logit_softcapping.is_some()),
        ("final_logit_softcapping", read.final_logit_softcapping.is_some() != config.final_logit_softcapping.is_some()),
        ("no_rope_layers", read.uses_rope != config.uses_rope),
        ("sliding_window", read.windows != config.windows),
        ("sliding_window", architecture == Architecture::Gemma2 && config.windows.iter().all(Option::is_none)),
    ];
    if let Some((field, _)) = differs.into_iter().find(|(_, differs)| *differs) {
        return Some(format!("llama.cpp has its own `{field}` for {}, and it is another", architecture.name()));
    }
    let square = config.query_size() == config.hidden_size;
    let what = match &config.rope.scaling {
        Scaling::Dynamic { .. } => "rope type `dynamic`".to_string(),
        Scaling::Yarn { truncate: false, .. } => "rope type `yarn` with `truncate` false".to_string(),
        Scaling::Llama3 { .. } | Scaling::Factors(_) if !llama => "rope type `llama3`".to_string(),
        Scaling::LongRope { .. } if architecture != Architecture::Phi3 => "rope type `longrope`".to_string(),
        _ if family.o_bias && !llama => "bias of the output projection (`attention_bias`)".to_string(),
        _ if family.mlp_bias && !llama => "biases of the feed-forward block (`mlp_bias`)".to_string(),
        _ if gemma && !config.tie_word_embeddings => "head of its own (`tie_word_embeddings` is false)".to_string(),
        _ if !square && matches!(architecture, Architecture::Qwen2 | Architecture::Phi3) => {
            format!("`head_dim` other than hidden_size / num_attention_heads (it is {})", config.head_dim)
        }
        _ => return None,
    };
    Some(format!("llama.cpp has no {what} for {}", architecture.name()))
}

/// Where llama.cpp computes something else than the model says, although its file is right.
pub(super) fn caveats(config: &Config) -> Vec<String> {
    let mut caveats = Vec::new();
    if let Some(window) = config.windows.iter().flatten().min().filter(|_| config.architecture != Architecture::Gemma2)
    {
        caveats.push(format!(
            "llama.cpp knows no sliding window for {}: texts of more than {window} tokens come out differently",
            config.architecture.name()
        ));
    }
    if let Scaling::LongRope { original_max_position_embeddings: original, .. } = config.rope.scaling {
        caveats.push(format!(
            "llama.cpp takes the longrope factors of long texts for all texts once its context is above {original} tokens"
        ));
    }
    caveats
}
