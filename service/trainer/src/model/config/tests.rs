//! Configurations of both spellings, and those that must be refused.

use serde_json::json;

use super::*;
use crate::model::{Scaling, tiny};

fn parse(value: &Value) -> Result<Config, String> {
    Config::from_json(Path::new("config.json"), &value.to_string()).map_err(|error| error.to_string())
}

fn with(key: &str, value: Value) -> Value {
    let mut config = tiny::config(Architecture::Llama);
    config[key] = value;
    config
}

#[test]
fn both_spellings_of_the_rotation_mean_the_same() {
    let scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    });
    let mut v4 = with("rope_theta", json!(500_000.0));
    v4["rope_scaling"] = scaling.clone();
    let mut v5 = tiny::config(Architecture::Llama);
    v5.as_object_mut().unwrap().remove("rope_theta");
    v5["rope_parameters"] = scaling;
    v5["rope_parameters"]["rope_theta"] = json!(500_000.0);
    let (v4, v5) = (parse(&v4).unwrap(), parse(&v5).unwrap());
    assert_eq!(v4, v5);
    assert_eq!(v4.rope.theta, 500_000.0);
    assert!(matches!(v4.rope.scaling, Scaling::Llama3 { factor: 8.0, .. }));
    // The older name of the type, and null for none.
    let mut old = tiny::config(Architecture::Llama);
    old["rope_scaling"] = json!({"type": "linear", "factor": 2.0});
    assert_eq!(parse(&old).unwrap().rope.scaling, Scaling::Linear { factor: 2.0 });
    assert_eq!(parse(&with("rope_scaling", Value::Null)).unwrap().rope.scaling, Scaling::Default);
}

#[test]
fn what_is_absent_takes_the_family_s_default() {
    let mut config = tiny::config(Architecture::Llama);
    for key in ["head_dim", "num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings"] {
        config.as_object_mut().unwrap().remove(key);
    }
    let config = parse(&config).unwrap();
    assert_eq!((config.head_dim, config.num_key_value_heads), (6, 4));
    assert_eq!((config.rms_norm_eps, config.rope.theta), (1e-6, 10_000.0));
    assert!(!config.tie_word_embeddings);
}

#[test]
fn ends_of_a_text_are_one_id_or_several_and_generation_config_adds_to_them() {
    assert_eq!(parse(&with("eos_token_id", json!([2, 7]))).unwrap().eos_token_ids, [2, 7]);
    assert_eq!(parse(&with("eos_token_id", Value::Null)).unwrap().eos_token_ids, Vec::<i64>::new());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), tiny::config(Architecture::Llama).to_string()).unwrap();
    std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [2, 9]}"#).unwrap();
    assert_eq!(Config::from_folder(folder.path()).unwrap().eos_token_ids, [2, 9]);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (key, value, message) in [
        (
            "architectures",
            json!(["BloomForCausalLM"]),
            "BloomForCausalLM is not supported; supported are LlamaForCausalLM",
        ),
        ("architectures", json!([]), "`architectures` is missing or empty"),
        ("hidden_act", json!("gelu"), "`hidden_act` is gelu; only silu"),
        ("rope_scaling", json!({"rope_type": "su"}), "rope type `su` is not supported; supported are default, linear"),
        ("rope_scaling", json!({"rope_type": "longrope"}), "`short_factor` is missing or not a list"),
        (
            "rope_scaling",
            json!({"rope_type": "longrope", "short_factor": [1, 1], "long_factor": [1, 1, 1, 1]}),
            "2 factors for 4 pairs",
        ),
        ("use_bidirectional_attention", json!(true), "`use_bidirectional_attention` is not supported"),
        ("partial_rotary_factor", json!(0.5), "`partial_rotary_factor` other than 1"),
        ("hidden_size", json!("many"), "`hidden_size` is \"many\", not a whole number"),
        ("vocab_size", Value::Null, "`vocab_size` is missing"),
    ] {
        let error = parse(&with(key, value)).unwrap_err();
        assert!(error.contains(message) && error.contains("config.json"), "{error}");
    }
}

#[test]
fn sizes_of_strangers_are_bounded_before_anything_is_allocated() {
    for (key, value, message) in [
        ("num_hidden_layers", json!(1_000_000_000), "num_hidden_layers is 1000000000; it must lie in 1 to"),
        ("vocab_size", json!(i64::MAX), "vocab_size"),
        ("hidden_size", json!(0), "hidden_size is 0"),
        ("num_attention_heads", json!(0), "num_attention_heads is 0"),
        ("num_attention_heads", json!(5), "5 attention heads cannot share 2"),
        ("head_dim", json!(7), "head_dim 7 is odd"),
        ("rms_norm_eps", json!(2.0), "rms_norm_eps is 2"),
        ("rope_theta", json!(-1.0), "rope"),
        (
            "rope_parameters",
            json!({"rope_type": "yarn", "factor": 4.0, "mscale": 1e308, "mscale_all_dim": -1e300}),
            "attention_factor is -",
        ),
    ] {
        let error = parse(&with(key, value)).unwrap_err();
        assert!(error.contains(message), "{key}: {error}");
    }
    assert!(parse(&json!([])).unwrap_err().contains("not a JSON object"));
    assert!(Config::from_json(Path::new("config.json"), "{").unwrap_err().to_string().contains("not JSON"));
}

#[test]
fn phi3_s_older_names_of_longrope_mean_it_and_its_original_length_lies_beside() {
    let phi3 = |kind: &str| {
        let mut config = tiny::config(Architecture::Phi3);
        config["rope_scaling"]["type"] = json!(kind);
        // Not read: the one beside the parameters counts.
        config["rope_scaling"]["original_max_position_embeddings"] = json!(16);
        parse(&config).unwrap()
    };
    let config = phi3("longrope");
    assert_eq!(config, phi3("su"));
    assert_eq!(config, phi3("yarn"));
    let Scaling::LongRope { original_max_position_embeddings, attention_factor, .. } = config.rope.scaling else {
        panic!("{:?}", config.rope);
    };
    assert_eq!(original_max_position_embeddings, 8.0);
    assert!((attention_factor - 2f64.sqrt()).abs() < 1e-12, "64 tokens are 8 times 8: √(1 + ln 8 / ln 8)");
    assert_eq!((config.head_dim, config.rope.rotary_dim), (8, 6));
}

#[test]
fn gemma2_has_caps_unless_told_otherwise_and_every_other_layer_slides() {
    let mut config = tiny::config(Architecture::Gemma2);
    for key in ["attn_logit_softcapping", "query_pre_attn_scalar", "tie_word_embeddings"] {
        config.as_object_mut().unwrap().remove(key);
    }
    config["final_logit_softcapping"] = Value::Null;
    let parsed = parse(&config).unwrap();
    assert_eq!((parsed.attn_logit_softcapping, parsed.final_logit_softcapping), (Some(50.0), None));
    assert_eq!((parsed.query_pre_attn_scalar, parsed.tie_word_embeddings), (256.0, true));
    assert_eq!(parsed.windows, [Some(4), None, Some(4)]);
    config["layer_types"] = json!(["full_attention", "sliding_attention", "full_attention"]);
    assert_eq!(parse(&config).unwrap().windows, [None, Some(4), None]);
    config["attn_logit_softcapping"] = json!(0);
    assert!(parse(&config).unwrap_err().contains("attn_logit_softcapping is 0; it must be positive"));
    config["hidden_activation"] = json!("gelu");
    assert!(parse(&config).unwrap_err().contains("`hidden_activation` is gelu; only gelu_pytorch_tanh"));
}

#[test]
fn smollm3_says_which_layers_rotate_or_how_often_one_does_not() {
    let mut config = tiny::config(Architecture::SmolLm3);
    config["num_hidden_layers"] = json!(5);
    config["no_rope_layers"] = json!([1, 0, 1, 1, 0]);
    assert_eq!(parse(&config).unwrap().uses_rope, [true, false, true, true, false]);
    config["no_rope_layers"] = Value::Null;
    config.as_object_mut().unwrap().remove("rope_theta");
    let parsed = parse(&config).unwrap();
    assert_eq!((parsed.uses_rope, parsed.rope.theta), (vec![true, true, true, false, true], 2_000_000.0));
    config["no_rope_layer_interval"] = json!(2);
    config["use_sliding_window"] = json!(true);
    config["sliding_window"] = json!(7);
    let parsed = parse(&config).unwrap();
    assert_eq!(parsed.uses_rope, [true, false, true, false, true]);
    // Those that do not rotate are those that slide.
    assert_eq!(parsed.windows, [None, Some(7), None, Some(7), None]);
}
