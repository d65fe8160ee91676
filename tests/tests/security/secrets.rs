//! Secrets that are in no log, in no answer, and on no drive in the clear.

use super::store::{STRANGER_SECRET, Store, found_below};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::Digest as _;
use tests::process::SECRET_KEY;
use tests::sigv4::{Ask, Key, Scope, ask};

/// RustFS logged access keys' secrets and session tokens. Everything that is secret is sent once where it is right and once where it
/// is refused, at the loudest level that logs have, and then looked for in all that the server printed and wrote.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_333v_r54g_logs() {
    let store = Store::start_with(&[]).await;
    // A second server, which logs all that it can.
    let config = store.config.clone();
    let Store { server, office, stranger, dir, .. } = store;
    assert!(server.stop().await.success());
    let config = config.env("RUST_LOG", "trace").env("STELE_LOG", "trace");
    let server = config.start().await;
    let store = Store { config, server, office, stranger, dir };
    store.bucket("vault").await;

    let customer = *b"0123456789-the-key-of-a-customer";
    let customer64 = BASE64.encode(customer);
    let md5 = BASE64.encode(md5::Md5::digest(customer));
    let with_key = |request: Ask, prefix: &str| {
        request
            .header(&format!("x-amz-{prefix}server-side-encryption-customer-algorithm"), "AES256")
            .header(&format!("x-amz-{prefix}server-side-encryption-customer-key"), &customer64)
            .header(&format!("x-amz-{prefix}server-side-encryption-customer-key-md5"), &md5)
    };
    store.office(with_key(ask("PUT", "/vault/own").body("x"), "")).await;
    store.office(with_key(ask("GET", "/vault/own"), "")).await;
    let copy = ask("PUT", "/vault/copy").header("x-amz-copy-source", "/vault/own");
    store.office(with_key(copy, "copy-source-")).await;
    store.by(&store.office, with_key(ask("GET", "/vault/copy"), "")).await;
    store
        .by(&store.office, with_key(ask("PUT", "/vault/own").query("broken", "%"), "").header("x-amz-acl", "none"))
        .await;

    let token = "a-session-token-that-nobody-gave-out-0123456789";
    let session = Key { token: Some(token.to_owned()), ..store.office.clone() };
    store.by(&session, ask("GET", "/vault")).await;
    let presigned = ask("GET", "/vault/own").presigned(store.config.s3(), &session, 60, &Scope::default());
    let signature = presigned.query.iter().find(|(name, _)| name == "X-Amz-Signature").unwrap().1.clone();
    store.send(presigned).await;
    let signed = ask("GET", "/vault").signed(store.config.s3(), &store.office);
    let header = signed.headers.iter().find(|(name, _)| name == "authorization").unwrap().1.clone();
    let in_header = header.rsplit('=').next().unwrap().to_owned();
    store.send(signed).await;
    store.send(ask("GET", "/vault").header("authorization", &format!("Bearer {token}"))).await;

    let form = format!(
        "--e\r\nContent-Disposition: form-data; name=\"x-amz-security-token\"\r\n\r\n{token}\r\n--e\r\n\
        Content-Disposition: form-data; name=\"key\"\r\n\r\nk\r\n--e\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nx\r\n--e--\r\n"
    );
    let post = ask("POST", "/vault").header("content-type", "multipart/form-data; boundary=e").body(form);
    store.send(post).await;
    // A user, whose secret is shown once.
    let scope = Scope { service: "iam".to_owned(), ..Scope::default() };
    let iam = |body: &str| {
        let request = ask("POST", "/").header("content-type", "application/x-www-form-urlencoded").body(body);
        request.signed_for(store.config.s3(), &store.office, &scope)
    };
    store.send(iam("Action=CreateUser&Version=2010-05-08&UserName=clerk")).await;
    let made = store.send(iam("Action=CreateAccessKey&Version=2010-05-08&UserName=clerk")).await.text();
    let of_user = made.split_once("<SecretAccessKey>").map(|(_, rest)| rest.split_once("</").unwrap().0.to_owned());
    let of_user = of_user.expect("IAM makes access keys");
    store.by(&Key::new("AKIANOBODY0000000000", &of_user), ask("GET", "/vault")).await;
    let sums = store.config.stele(&["accounts"]).await;
    let admin_token = std::fs::read_to_string(store.config.data.join("admin-token")).unwrap().trim().to_owned();

    let output =
        store.server.output() + &String::from_utf8_lossy(&sums.stdout) + &String::from_utf8_lossy(&sums.stderr);
    assert!(output.len() > 1000, "the log is looked at: {output}");
    let raw: String = customer.iter().map(|byte| char::from(*byte)).collect();
    let secrets = [
        ("the first account's secret", SECRET_KEY),
        ("an account's secret", STRANGER_SECRET),
        ("a user's secret", of_user.as_str()),
        ("a client's key", customer64.as_str()),
        ("a client's key as it is", raw.as_str()),
        ("a session token", token),
        ("a presigned signature", signature.as_str()),
        ("a signature", in_header.as_str()),
        ("the admin token", admin_token.as_str()),
    ];
    for (what, secret) in secrets {
        assert!(!output.contains(secret), "{what} is in the log");
    }
    let Store { config, server, dir, .. } = store;
    let data = config.data.clone();
    assert!(server.stop().await.success());
    assert!(data.join("admin-token").exists(), "the search has something to look through");
    let needles = secrets.map(|(what, secret)| (what, secret.as_bytes()));
    let mut found = found_below(&data, &needles);
    // The files in which they are kept, for their owner only.
    found.retain(|(_, path)| !path.ends_with("admin-token") && !path.ends_with("credentials"));
    assert!(found.is_empty(), "{found:?}");
    drop(dir);
}
