//! Models in the files of a Hugging Face folder: config.json and safetensors, in shards when they are large.

use std::ops::Range;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use crate::model::{self, Config};
use crate::{peft, tensors};

/// Name of the shape's file.
pub const CONFIG: &str = "config.json";
/// Name of the weights' file when there is one.
pub const WEIGHTS: &str = "model.safetensors";
/// Name of the file that says which shard has which tensor.
const INDEX: &str = "model.safetensors.index.json";
/// Largest shard, in bytes, unless a single tensor is larger. So much is in memory at once when a model is written.
pub const MAX_SHARD_BYTES: u64 = 2 << 30;

/// Whether a path is a whole model, and not an adapter.
pub fn is_model(path: &Path) -> bool {
    path.is_file() || (path.join(CONFIG).is_file() && !path.join(peft::CONFIG).is_file())
}

/// The files beside the weights that make a model: config.json and, where there is one, generation_config.json.
///
/// They are the ones of the folder that the weights came from, whatever else is in them; only the number format is that of
/// the weights now, and the head is not tied any more when it was trained apart. A GGUF file has none, so they are made.
pub fn config_files(origin: &Path, kind: Kind, is_tied: bool) -> Result<Vec<(String, Vec<u8>)>, model::Error> {
    let config = Config::open(origin)?;
    let path = origin.join(CONFIG);
    let broken = |what: String| model::Error::Config { path: path.clone(), what };
    let mut text = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Map<String, Value>>(&bytes).map_err(|error| broken(error.to_string()))?,
        Err(_) => match config.to_json(dtype(kind)) {
            Ok(Value::Object(map)) => map,
            Ok(_) => unreachable!("a configuration is an object"),
            Err(what) => return Err(broken(what)),
        },
    };
    // transformers 5 reads dtype, 4 reads torch_dtype; a file has one or both.
    for key in ["dtype", "torch_dtype"] {
        if let Some(value) = text.get_mut(key) {
            *value = json!(dtype(kind));
        }
    }
    if !text.contains_key("dtype") && !text.contains_key("torch_dtype") {
        text.insert("torch_dtype".into(), json!(dtype(kind)));
    }
    if config.tie_word_embeddings != is_tied || text.contains_key("tie_word_embeddings") {
        text.insert("tie_word_embeddings".into(), json!(is_tied));
    }
    let pretty = |map: Map<String, Value>| format!("{:#}\n", Value::Object(map)).into_bytes();
    let generation = match std::fs::read(origin.join(GENERATION_CONFIG)) {
        Ok(bytes) => Some(bytes),
        Err(_) if path.is_file() => None,
        Err(_) => Some(pretty(generation_config(&config))),
    };
    let mut files = vec![(CONFIG.to_string(), pretty(text))];
    files.extend(generation.map(|bytes| (GENERATION_CONFIG.to_string(), bytes)));
    Ok(files)
}

const GENERATION_CONFIG: &str = "generation_config.json";

/// What ends an answer, for models whose file has no word on generation.
fn generation_config(config: &Config) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("eos_token_id".into(), json!(config.eos_token_ids));
    map.extend(config.bos_token_id.map(|id| ("bos_token_id".to_string(), json!(id))));
    map
}

/// The name of a number format in config.json, as in a job's spec.
pub fn dtype(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    }
}

/// How the weights of a model are cut into files, known from their shapes.
#[derive(Debug)]
pub struct Shards {
    names: Vec<String>,
    /// Which tensors, by their place in the list.
    ranges: Vec<Range<usize>>,
    num_bytes: u64,
}

impl Shards {
    /// Cuts a list of named shapes into files of at most `max_bytes`, in order.
    pub fn of(shapes: &[(String, Vec<i64>)], kind: Kind, max_bytes: u64) -> Shards {
        let bytes_of = |shape: &[i64]| shape.iter().product::<i64>() as u64 * kind.elt_size_in_bytes() as u64;
        let mut shards = Shards { names: Vec::new(), ranges: Vec::new(), num_bytes: 0 };
        let (mut start, mut bytes) = (0, 0);
        for (place, (name, shape)) in shapes.iter().enumerate() {
            let size = bytes_of(shape);
            if bytes + size > max_bytes && place > start {
                shards.ranges.push(start..place);
                (start, bytes) = (place, 0);
            }
            bytes += size;
            shards.num_bytes += size;
            shards.names.push(name.clone());
        }
        shards.ranges.push(start..shapes.len());
        shards
    }

    /// Each file's name and which tensors go into it.
    pub fn files(&self) -> impl Iterator<Item = (String, Range<usize>)> {
        self.ranges.iter().enumerate().map(|(number, range)| (self.file_name(number), range.clone()))
    }

    fn file_name(&self, number: usize) -> String {
        match self.ranges.len() {
            1 => WEIGHTS.to_string(),
            count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        }
    }

    /// The file that says where each tensor is; none when there is but one.
    pub fn index(&self) -> Option<(String, Vec<u8>)> {
        if self.ranges.len() == 1 {
            return None;
        }
        let mut weight_map = Map::new();
        for (file, range) in self.files() {
            weight_map.extend(self.names[range].iter().map(|name| (name.clone(), json!(file))));
        }
        let index = json!({"metadata": {"total_size": self.num_bytes}, "weight_map": weight_map});
        Some((INDEX.to_string(), format!("{index:#}\n").into_bytes()))
    }
}

/// The files of weights that are in memory, rounded to `kind`.
pub fn weight_files(tensors: &[(String, Tensor)], kind: Kind) -> Vec<(String, Vec<u8>)> {
    let shapes: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect();
    let shards = Shards::of(&shapes, kind, MAX_SHARD_BYTES);
    let files = shards.files().map(|(name, range)| (name, tensors::serialize_as(kind, &tensors[range])));
    files.collect::<Vec<_>>().into_iter().chain(shards.index()).collect()
}

/// Copies the weights of files into `places`, by name: each must be there in its shape. What is wrong is told.
pub fn read_weights<'a>(files: impl IntoIterator<Item = &'a [u8]>, places: &[(String, Tensor)]) -> Result<(), String> {
    let mut missing: Vec<&(String, Tensor)> = places.iter().collect();
    for bytes in files {
        let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let tensors = tensors::read(&file).map_err(|error| error.to_string())?;
        for (name, tensor) in tensors {
            let Some(place) = missing.iter().position(|(wanted, _)| *wanted == name) else {
                return Err(format!("tensor {name} belongs to no weight of this model, or comes twice"));
            };
            let (_, place) = missing.swap_remove(place);
            if place.size() != tensor.size() {
                return Err(format!("tensor {name} is {:?}, expected {:?}", tensor.size(), place.size()));
            }
            tch::no_grad(|| place.shallow_clone().copy_(&tensor));
        }
    }
    match missing.first() {
        Some((name, _)) => Err(format!("tensor {name} is missing")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::model::{Architecture, Decoder, tiny};

    fn write(folder: &Path, files: Vec<(String, Vec<u8>)>) {
        for (name, bytes) in files {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }

    #[test]
    fn a_model_written_in_shards_loads_as_it_was() {
        let model = tiny::model(Architecture::Qwen3);
        let tensors = model.named_tensors();
        let shapes: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect();
        for (max_bytes, expected) in [(MAX_SHARD_BYTES, 1), (8000, 11), (1, tensors.len())] {
            let shards = Shards::of(&shapes, Kind::Float, max_bytes);
            let folder = tempfile::tempdir().unwrap();
            let files: Vec<_> = shards
                .files()
                .map(|(name, range)| (name, tensors::serialize(&tensors[range])))
                .chain(shards.index())
                .collect();
            assert_eq!(shards.files().count(), expected, "{max_bytes}");
            write(folder.path(), files);
            std::fs::write(folder.path().join(CONFIG), tiny::config(Architecture::Qwen3).to_string()).unwrap();
            assert_eq!(tiny::load(folder.path()).named_tensors(), tensors);
        }
    }

    #[test]
    fn a_configuration_keeps_what_it_says_but_for_the_number_format_and_the_tie() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = tiny::config(Architecture::Llama);
        config["torch_dtype"] = json!("float32");
        config["something_else"] = json!({"kept": [1, 2]});
        config["tie_word_embeddings"] = json!(true);
        std::fs::write(folder.path().join(CONFIG), config.to_string()).unwrap();
        std::fs::write(folder.path().join(GENERATION_CONFIG), "{}").unwrap();
        let files = config_files(folder.path(), Kind::BFloat16, false).unwrap();
        let written: Value = serde_json::from_slice(&files[0].1).unwrap();
        config["torch_dtype"] = json!("bfloat16");
        config["tie_word_embeddings"] = json!(false);
        assert_eq!(written, config);
        assert_eq!(files[1], (GENERATION_CONFIG.to_string(), b"{}".to_vec()));
    }

    #[test]
    fn weights_are_rounded_once_and_read_back_by_name() {
        let model = tiny::model(Architecture::Gemma);
        let tensors = model.named_tensors();
        let files = weight_files(&tensors, Kind::BFloat16);
        let places: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.zeros_like())).collect();
        read_weights(files.iter().map(|(_, bytes)| bytes.as_slice()), &places).unwrap();
        for ((name, tensor), (_, place)) in tensors.iter().zip(&places) {
            assert_eq!(*place, tensor.to_kind(Kind::BFloat16).to_kind(Kind::Float), "{name}");
        }
        let bytes = || files.iter().map(|(_, bytes)| bytes.as_slice());
        assert!(read_weights(bytes(), &places[1..]).unwrap_err().contains("belongs to no weight"));
        assert!(read_weights([], &places).unwrap_err().contains("model.embed_tokens.weight is missing"));
        let bent = [("model.norm.weight".to_string(), Tensor::zeros([3], (Kind::Float, Device::Cpu)))];
        let one = weight_files(&tensors[tensors.len() - 2..tensors.len() - 1], Kind::Float);
        let error = read_weights(one.iter().map(|(_, bytes)| bytes.as_slice()), &bent).unwrap_err();
        assert!(error.contains("is [24], expected [3]"), "{error}");
    }

    /// A loaded decoder is what its written folder loads as.
    #[test]
    fn a_folder_made_of_a_model_is_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let config = tiny::config(Architecture::Phi3);
        tiny::write(folder.path(), &config, &tiny::tensors(&config, 1));
        let model = Decoder::load(folder.path(), Kind::BFloat16, Device::Cpu, &mut |_, _| {}).unwrap();
        let out = tempfile::tempdir().unwrap();
        write(out.path(), config_files(folder.path(), Kind::BFloat16, false).unwrap());
        write(out.path(), weight_files(&model.named_tensors(), Kind::BFloat16));
        assert!(is_model(out.path()) && !is_model(&out.path().join("nothing")));
        let back = Decoder::load(out.path(), Kind::BFloat16, Device::Cpu, &mut |_, _| {}).unwrap();
        assert_eq!(back.named_tensors(), model.named_tensors());
    }
}
