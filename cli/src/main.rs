mod demo;
fn main() { let _ = (demo::FLOW, demo::handlers()); }
