//! What networks cost: `cargo bench -p muster-integration-tests --bench network`.

mod plans;

fn main() {
    plans::measure();
}
