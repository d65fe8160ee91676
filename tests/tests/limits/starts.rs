//! Starts that make no sense, or come at the wrong time: each ends with one clear line.

use crate::{bucket, config, get, put};
use bytes::Bytes;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tests::process::ServerConfig;

/// The start ends by itself, with a failure and one line that has all of `words` in it.
async fn refused(config: &ServerConfig, words: &[&str]) {
    let failed = config.try_start().await.expect_err("this start makes no sense");
    let status = failed.status.unwrap_or_else(|| panic!("it should have ended: {failed}"));
    assert!(status.code().is_some_and(|code| code != 0), "{failed}");
    one_line(&failed.output, words);
}

fn one_line(output: &str, words: &[&str]) {
    // Warnings of the log may come before it: what counts is what the command says in its own name.
    let said: Vec<&str> =
        output.lines().filter(|line| line.starts_with("stele: ") || line.starts_with("error: ")).collect();
    assert_eq!(said.len(), 1, "one line that says why not: {output}");
    for word in words {
        assert!(said[0].contains(word), "{word} in: {}", said[0]);
    }
    assert!(!output.contains("panicked") && !output.contains("RUST_BACKTRACE"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_data_is_refused_and_the_first_goes_on() {
    let (_directory, config) = config(3);
    let server = config.start().await;
    let client = bucket(&config).await;
    put(&client, "a", Bytes::from_static(b"one")).await.unwrap();
    let second = ServerConfig::new(&config.data, 3);
    refused(&second, &["in use", &config.data.display().to_string()]).await;
    // Neither do commands that need the server to be stopped.
    for command in [&["rebuild-index"][..], &["journal", "accept-loss"]] {
        let output = config.stele(command).await;
        assert!(!output.status.success(), "{command:?}");
        one_line(&String::from_utf8_lossy(&output.stderr), &["in use"]);
    }
    assert_eq!(get(&client, "a").await.unwrap(), "one");
    put(&client, "b", Bytes::from_static(b"two")).await.unwrap();
    // The drives alone are locked, too: another set-up that names them does not get them.
    let (_elsewhere, mut thief) = crate::config(3);
    thief.arguments = (0..3).flat_map(|n| ["--drive".to_owned(), config.drive(n).display().to_string()]).collect();
    refused(&thief, &[]).await;
    put(&client, "c", Bytes::from_static(b"three")).await.unwrap();
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_flags_end_with_one_line() {
    let (directory, mut config) = config(3);
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    for (arguments, words) in [
        (&["--drives", "0"][..], &["1 to"][..]),
        (&["--drives", "100000"], &["1 to"]),
        (&["--drives", "many"], &["--drives"]),
        (&["--geometry", "0+2"], &["--geometry"]),
        (&["--geometry", "4"], &["--geometry"]),
        (&["--geometry", "30+9"], &["--geometry"]),
        (&["--drives", "3", "--geometry", "9+9"], &["9+9"]),
        (&["--drives", "2", "--drive", "x"], &["--drive"]),
        (&["--drives", "3", "--domain", "not a domain"], &["domain"]),
        (&["--drives", "3", "--accounts", "/nonexistent/accounts"], &["/nonexistent/accounts"]),
        (&["--bogus"], &["--bogus"]),
    ] {
        config.data = directory.path().join(format!("data{}", arguments.join("")).replace(['/', ' '], ""));
        config = config.arguments(arguments);
        refused(&config, words).await;
        println!("{arguments:?}: refused");
    }
    config = config.arguments(&["--drives", "3"]);
    config.data = file.join("below-a-file");
    refused(&config, &["below-a-file"]).await;
    // Somebody's home directory is not taken for a data directory.
    config.data = directory.path().to_owned();
    refused(&config, &["not empty"]).await;
    assert_eq!(fs::read(&file).unwrap(), b"x");
    // A port that is taken.
    config.data = directory.path().join("fresh");
    let taken = tokio::net::TcpListener::bind(config.s3()).await.unwrap();
    refused(&config, &[&config.s3().to_string()]).await;
    drop(taken);
    let server = config.start().await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_files_end_with_one_line_and_are_left_alone() {
    let (directory, config) = config(3);
    let server = config.start().await;
    let client = bucket(&config).await;
    put(&client, "a", Bytes::from_static(b"one")).await.unwrap();
    assert_eq!(server.stop().await.code(), Some(0));

    let differing = config.clone().arguments(&["--geometry", "2+1"]);
    refused(&differing, &["2+1"]).await;
    let differing = config.clone().arguments(&["--drives", "4"]);
    refused(&differing, &["4"]).await;

    for (name, contents) in
        [("config", "no toml"), ("config", ""), ("config", "version = 99\n"), ("credentials", "x = 1\n")]
    {
        let mut without = config.clone();
        without.environment.clear();
        with_file(&config.data.join(name), contents, 0o600, async || refused(&without, &[name]).await).await;
    }
    for (contents, mode) in [("too short", 0o600), ("", 0o600)] {
        with_file(&config.data.join("keys/kek"), contents, mode, async || refused(&config, &["kek"]).await).await;
    }
    let key = fs::read_to_string(config.data.join("keys/kek")).unwrap();
    with_file(&config.data.join("keys/kek"), &key, 0o644, async || refused(&config, &["kek"]).await).await;
    // A key of the right form that is not the right one: nothing may be made anew.
    let (_other_directory, other) = crate::config(1);
    other.start().await.stop().await;
    let other_key = fs::read_to_string(other.data.join("keys/kek")).unwrap();
    with_file(&config.data.join("keys/kek"), &other_key, 0o600, async || refused(&config, &["key"]).await).await;
    let other_key = fs::read_to_string(other.data.join("keys/kek2")).unwrap();
    with_file(&config.data.join("keys/kek2"), &other_key, 0o600, async || refused(&config, &["kek2"]).await).await;
    // Gone altogether: either of the two is enough, and none is not.
    let [kek, second] = ["kek", "kek2"].map(|name| (config.data.join("keys").join(name), directory.path().join(name)));
    fs::rename(&second.0, &second.1).unwrap();
    let server = config.start().await;
    assert_eq!(get(&client, "a").await.unwrap(), "one", "with the first key alone");
    server.stop().await;
    fs::rename(&kek.0, &kek.1).unwrap();
    refused(&config, &["kek"]).await;
    fs::rename(&second.1, &second.0).unwrap();
    let server = config.start().await;
    assert_eq!(get(&client, "a").await.unwrap(), "one", "with the second key alone");
    server.stop().await;
    assert!(!kek.0.exists(), "a key for existing data is never made anew");
    fs::rename(&kek.1, &kek.0).unwrap();

    let accounts = directory.path().join("accounts.toml");
    let with_accounts = config.clone().arguments(&["--accounts", &accounts.display().to_string()]);
    let secret = "very-secret-value";
    let missing = format!("[[account]]\nname = \"a\"\nsecret_key = \"{secret}\"\n");
    let short = format!("[[account]]\nname = \"{secret}\"\naccess_key = \"AK\"\nsecret_key = \"s\"\n");
    for contents in ["no toml", &missing, &format!("secret_key = {secret}"), &short] {
        fs::write(&accounts, contents).unwrap();
        fs::set_permissions(&accounts, fs::Permissions::from_mode(0o600)).unwrap();
        refused(&with_accounts, &[]).await;
    }
    fs::set_permissions(&accounts, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&with_accounts, &["accounts.toml"]).await;
    for name in ["STELE_ACCESS_KEY", "STELE_SECRET_KEY"] {
        let mut half = config.clone();
        half.environment.retain(|(other, _)| other != name);
        refused(&half, &["together"]).await;
    }

    let server = config.start().await;
    assert_eq!(get(&client, "a").await.unwrap(), "one", "after all of that");
    drop(server);
}

/// With other contents for a while.
async fn with_file(path: &Path, contents: &str, mode: u32, during: impl AsyncFnOnce()) {
    let (before, permissions) = (fs::read(path).unwrap(), fs::metadata(path).unwrap().permissions());
    fs::write(path, contents).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    println!("{} with mode {mode:o}: {contents:?}", path.display());
    during().await;
    let kept = fs::read(path).unwrap();
    assert_eq!(kept, contents.as_bytes(), "{} is left alone", path.display());
    fs::write(path, before).unwrap();
    fs::set_permissions(path, permissions).unwrap();
}
