//! What holds whether the web page was built or not; caching and packing are tested beside the code.

use super::Server;

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_narrowly_or_says_how_to_build_it() {
    let server = Server::start().await;
    for path in ["/", "/docs"] {
        let page = server.ask_raw("GET", path, "", "").await;
        let policy = page.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"));
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
        match page.status {
            200 => {
                assert_eq!(
                    page.header("content-type"),
                    Some("text/html; charset=utf-8")
                );
                assert_eq!(page.header("cache-control"), Some("no-cache"));
                let tag = format!("if-none-match: {}\r\n", page.header("etag").unwrap());
                let again = server.ask_raw("GET", path, &tag, "").await;
                assert_eq!((again.status, again.bytes.len()), (304, 0));
                assert!(again.header("content-security-policy").is_some());
            }
            503 => assert!(page.text().contains("make web")),
            other => panic!("{other}"),
        }
        let head = server.ask_raw("HEAD", path, "", "").await;
        assert_eq!((head.status, head.bytes.len()), (page.status, 0));
        assert_eq!(head.header("content-length"), page.header("content-length"));
        server.ask_raw("POST", path, "", "").await.expect(405);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_a_page() {
    let server = Server::start().await;
    for path in [
        "/nothing",
        "/index.html",
        "/assets/",
        "/assets/none.js",
        "/assets/../index.html",
        "/assets/%2e%2e%2findex.html",
        "/assets/..%2f..%2fpackage.json",
        "/none.svg",
        "/..%2fpackage.svg",
    ] {
        let answer = server.ask_raw("GET", path, "", "").await;
        assert_eq!(answer.expect(404)["code"], "not_found", "{path}");
    }
    server.stop().await;
}
