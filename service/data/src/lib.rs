//! Rows in, packed batches of plain vectors out; and the files a model brings that need no tensors.
//!
//! A row travels one way, one file a step: [`source`] reads it, [`example`] and [`template`] understand it,
//! [`tokenize`] turns it into tokens and labels, [`admit`] applies the length policy, [`order`] and [`mix`] decide when it
//! comes, [`pack`] puts it into a batch. [`dataset`] runs the first four over whole sources; [`preview`] shows what they did.
//! [`examples`] keeps what came of it.
//! Beside the path stand [`storage`] (where objects are), [`cache`] (copies of them), [`tokenizer`] and [`gguf`] (what a model brings).
//! No tensor library is used here, so that the server can check data with the very code the trainer trains with.

pub mod admit;
pub mod cache;
mod caught;
pub mod dataset;
pub mod ends;
pub mod example;
pub mod examples;
pub mod gguf;
mod leakage;
pub mod mix;
pub mod order;
pub mod pack;
pub mod preview;
pub mod source;
pub mod storage;
pub mod template;
pub mod tokenize;
pub mod tokenizer;
