#[test]
fn dump() {
    println!(
        "{}",
        rest::openapi::merge([history_service::openapi()])
            .to_pretty_json()
            .unwrap()
    );
}
