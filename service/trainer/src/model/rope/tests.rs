//! Frequencies and tables beside those of transformers.

use std::path::Path;

use serde_json::Value;
use tch::Device;

use super::*;
use crate::model::Config;

fn fixture() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/rope.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Tokens of the text that the positions of the fixture end.
const TEXT: i64 = 256;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// The configuration of a case, as its model would bring it.
fn config(case: &Value) -> Config {
    let mut config = crate::model::tiny::config(crate::model::Architecture::Llama);
    config.as_object_mut().unwrap().remove("rope_theta");
    config["head_dim"] = case["head_dim"].clone();
    config["rope_parameters"] = case["rope_parameters"].clone();
    if let Some(positions) = case.get("max_position_embeddings") {
        config["max_position_embeddings"] = positions.clone();
    }
    Config::from_json(Path::new("config.json"), &config.to_string()).unwrap()
}

#[test]
fn every_type_has_the_frequencies_of_transformers() {
    for case in fixture() {
        let config = config(&case);
        let got = config.rope.inverse_frequencies(TEXT);
        let want = numbers(&case["inv_freq"]);
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= 2e-6 * want, "{}: {got} against {want}", case["name"]);
        }
    }
}

#[test]
fn tables_are_those_of_transformers_with_the_scaling_in_them() {
    for case in fixture() {
        let config = config(&case);
        let rotary = Rotary::new(&config.rope, Kind::Float, Device::Cpu);
        let positions: Vec<i64> = case["positions"].as_array().unwrap().iter().map(|p| p.as_i64().unwrap()).collect();
        let tables = rotary.tables(&Tensor::from_slice(&positions), [(positions.len() as i64, TEXT)]);
        // A rotated unit pair (1, 0) is (cos, sin).
        let half = config.head_dim / 2;
        let ones = Tensor::ones([positions.len() as i64, 1, half], (Kind::Float, Device::Cpu));
        let rotated = tables.rotate(&Tensor::cat(&[&ones, &ones.zeros_like()], -1)).squeeze_dim(1);
        for (name, got) in [("cos", rotated.narrow(1, 0, half)), ("sin", rotated.narrow(1, half, half))] {
            let rows = case[name].as_array().unwrap();
            let want: Vec<f32> = rows.iter().flat_map(numbers).map(|x| x as f32).collect();
            let want = Tensor::from_slice(&want).view([positions.len() as i64, half]);
            let error = (got - want).abs().max().double_value(&[]);
            assert!(error < 5e-5, "{} {name}: off by {error}", case["name"]);
        }
    }
}

/// A pack is no longer text: each document of it has the tables that it has alone.
#[test]
fn frequencies_that_depend_on_the_length_follow_each_document_of_a_pack() {
    let config = |name: &str| config(fixture().iter().find(|case| case["name"] == name).unwrap());
    for name in ["dynamic", "longrope_long"] {
        let config = config(name);
        let rotary = Rotary::new(&config.rope, Kind::Float, Device::Cpu);
        assert!(config.rope.depends_on_length());
        let table = |position: i64, lengths: &[(i64, i64)]| {
            let tokens = lengths.iter().map(|(tokens, _)| tokens).sum();
            let positions = Tensor::full([tokens], position, (Kind::Int64, Device::Cpu));
            rotary.tables(&positions, lengths.to_vec()).cos
        };
        let pack = table(7, &[(2, 100), (3, 300)]);
        let alone = [table(7, &[(2, 100)]), table(7, &[(3, 300)])];
        assert_ne!(alone[0].get(0), alone[1].get(0), "{name}");
        assert_eq!(pack, Tensor::cat(&alone, 0), "{name}");
    }
}
