//! Compiles the wire without protoc: protox reads the files, tonic-prost-build writes the Rust.

use std::{env, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 4] = [
    "muster/experiment/v1/experiment.proto",
    "muster/fleet/v1/fleet.proto",
    "muster/network/v1/network.proto",
    "muster/staging/v1/staging.proto",
];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptor = protox::compile(FILES, ["."]).expect("the wire compiles");
    fs::write(out.join("descriptor.bin"), descriptor.encode_to_vec()).expect("OUT_DIR can be written");
    tonic_prost_build::configure()
        .codec_path("crate::codec::SmallCodec")
        .bytes(".")
        .compile_fds(descriptor)
        .expect("the wire becomes Rust");
}
