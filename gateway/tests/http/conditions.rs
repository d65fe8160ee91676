//! Conditions of policies: nobody chooses by which he is judged. What the operation does not have fulfils none, and what its body says
//! is judged by the body.

use super::client::{Answer, Server};
use super::refused;
use metadata::keys::Secret;

const DOCS: &str = r#"["arn:aws:s3:::docs","arn:aws:s3:::docs/*"]"#;

/// What is allowed, or denied, to a user of the bucket's account.
fn carols(effect: &str, action: &str, condition: &str) -> String {
    format!(
        r#"{{"Effect":"{effect}","Principal":{{"AWS":"arn:aws:iam::alice:user/carol"}},"Action":{action},"Resource":{DOCS},"Condition":{{{condition}}}}}"#
    )
}

async fn put_policy(server: &Server, statements: &str) {
    let answer = try_policy(server, statements).await;
    assert_eq!(answer.status, 204, "{statements}: {}", answer.text());
}

async fn try_policy(server: &Server, statements: &str) -> Answer {
    let text = format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#);
    server.query("alice", "PUT", "/docs", "policy=", &[], text.as_bytes()).await
}

#[tokio::test]
async fn a_parameter_of_another_operation_fulfils_no_condition() {
    let server = super::server().await;
    put_policy(&server, &carols("Allow", r#""s3:*""#, r#""StringLike":{"s3:prefix":"home/carol/*"}"#)).await;
    let query = "prefix=home%2Fcarol%2F";
    assert_eq!(server.query("carol", "GET", "/docs", query, &[], b"").await.status, 200, "that is what it allows");
    refused(&server.query("carol", "GET", "/docs/a", query, &[], b"").await, 403, "AccessDenied");
    refused(&server.query("carol", "PUT", "/docs/a", query, &[], b"x").await, 403, "AccessDenied");
    refused(&server.query("carol", "DELETE", "/docs/a", query, &[], b"").await, 403, "AccessDenied");
    let policy = format!("policy=&{query}");
    refused(&server.query("carol", "DELETE", "/docs", &policy, &[], b"").await, 403, "AccessDenied");
    // Nor does it make of a read somebody who may list.
    let reads = carols("Allow", r#"["s3:GetObject"]"#, "");
    let lists = carols("Allow", r#"["s3:ListBucket"]"#, r#""StringLike":{"s3:prefix":"home/carol/*"}"#);
    put_policy(&server, &format!("{reads},{lists}")).await;
    assert_eq!(server.query("carol", "GET", "/docs/a", query, &[], b"").await.body, b"hello");
    refused(&server.query("carol", "GET", "/docs/none", query, &[], b"").await, 403, "AccessDenied");
}

#[tokio::test]
async fn tags_of_a_body_are_judged_by_the_body() {
    let server = super::server().await;
    let condition = r#""StringEquals":{"s3:RequestObjectTag/class":"secret"}"#;
    put_policy(&server, &carols("Allow", r#"["s3:PutObjectTagging"]"#, condition)).await;
    let body =
        |value: &str| format!("<Tagging><TagSet><Tag><Key>class</Key><Value>{value}</Value></Tag></TagSet></Tagging>");
    let lie = [("x-amz-tagging", "class=secret")];
    for headers in [&lie[..], &[]] {
        let answer = server.query("carol", "PUT", "/docs/a", "tagging=", headers, body("public").as_bytes()).await;
        refused(&answer, 403, "AccessDenied");
    }
    assert_eq!(server.query("carol", "PUT", "/docs/a", "tagging=", &[], body("secret").as_bytes()).await.status, 200);
}

#[tokio::test]
async fn a_retention_is_judged_by_the_body() {
    let server = super::server().await;
    let lock = [("x-amz-bucket-object-lock-enabled", "true")];
    assert_eq!(server.request("alice", "PUT", "/kept", &lock, b"").await.status, 200);
    let until = "<RetainUntilDate>2099-01-01T00:00:00Z</RetainUntilDate>";
    let governance = format!("<Retention><Mode>GOVERNANCE</Mode>{until}</Retention>");
    assert_eq!(server.request("alice", "PUT", "/kept/a", &[], b"x").await.status, 200);
    let allow = carols(
        "Allow",
        r#"["s3:PutObjectRetention","s3:BypassGovernanceRetention"]"#,
        r#""StringEquals":{"s3:object-lock-mode":"GOVERNANCE"}"#,
    );
    let text = format!(r#"{{"Version":"2012-10-17","Statement":[{}]}}"#, allow.replace(":::docs", ":::kept"));
    assert_eq!(server.query("alice", "PUT", "/kept", "policy=", &[], text.as_bytes()).await.status, 204);
    let put = |body: &'static str, headers: &'static [(&'static str, &'static str)]| {
        server.query("carol", "PUT", "/kept/a", "retention=", headers, body.as_bytes())
    };
    assert_eq!(server.query("carol", "PUT", "/kept/a", "retention=", &[], governance.as_bytes()).await.status, 200);
    refused(&put("<Retention/>", &[("x-amz-bypass-governance-retention", "true")]).await, 403, "AccessDenied");
    let lie = &[("x-amz-bypass-governance-retention", "true"), ("x-amz-object-lock-mode", "GOVERNANCE")];
    refused(&put("<Retention/>", lie).await, 403, "AccessDenied");
    // A bypass is judged by the body, too: who may shorten a retention in this mode may do so.
    let shorter =
        "<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2098-01-01T00:00:00Z</RetainUntilDate></Retention>";
    let bypass = &[("x-amz-bypass-governance-retention", "true")];
    assert_eq!(put(shorter, bypass).await.status, 200);
}

#[tokio::test]
async fn the_source_of_a_copy_has_its_own_conditions() {
    let server = super::server().await;
    let any = r#""StringEquals":{"s3:VersionId":"null"}"#;
    let writes = carols("Allow", r#"["s3:PutObject","s3:PutObjectTagging"]"#, "");
    let reads = carols("Allow", r#"["s3:GetObject","s3:GetObjectVersion"]"#, any);
    put_policy(&server, &format!("{writes},{reads}")).await;
    for (source, status) in [("/docs/a", 403), ("/docs/a?versionId=null", 200)] {
        let answer = server.request("carol", "PUT", "/docs/copy", &[("x-amz-copy-source", source)], b"").await;
        assert_eq!(answer.status, status, "{source}: {}", answer.text());
    }
}

/// SDKs say what an object is to be when they open the upload, and not with its parts.
#[tokio::test]
async fn parts_are_judged_by_what_their_upload_said() {
    let server = super::server().await;
    let lacks = |key: &str, value: &str| {
        carols("Deny", r#""s3:PutObject""#, &format!(r#""StringNotEquals":{{"{key}":"{value}"}}"#))
    };
    let statements = [
        carols("Allow", r#""s3:*""#, ""),
        lacks("s3:x-amz-server-side-encryption", "AES256"),
        lacks("s3:x-amz-acl", "bucket-owner-full-control"),
        lacks("s3:RequestObjectTag/class", "secret"),
    ];
    put_policy(&server, &statements.join(",")).await;
    let all = [
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-acl", "bucket-owner-full-control"),
        ("x-amz-tagging", "class=secret"),
    ];
    refused(&server.query("carol", "POST", "/docs/m", "uploads=", &all[..2], b"").await, 403, "AccessDenied");
    let opened = server.query("carol", "POST", "/docs/m", "uploads=", &all, b"").await;
    assert_eq!(opened.status, 200, "{}", opened.text());
    let id = upload_id(&opened);
    let part = server.query("carol", "PUT", "/docs/m", &format!("partNumber=1&uploadId={id}"), &[], b"part").await;
    assert_eq!(part.status, 200, "{}", part.text());
    let etag = part.header("etag").expect("an entity tag").to_owned();
    let list = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    let complete = server.query("carol", "POST", "/docs/m", &format!("uploadId={id}"), &[], list.as_bytes()).await;
    assert_eq!(complete.status, 200, "{}", complete.text());
    // An upload that somebody else opened without encryption is not gone on with.
    let opened = server.query("alice", "POST", "/docs/n", "uploads=", &[], b"").await;
    let query = format!("partNumber=1&uploadId={}", upload_id(&opened));
    let lie = [("x-amz-tagging", "class=secret")];
    refused(&server.query("carol", "PUT", "/docs/n", &query, &lie, b"part").await, 403, "AccessDenied");
}

fn upload_id(opened: &Answer) -> String {
    let text = opened.text();
    let id = text.split("<UploadId>").nth(1).and_then(|rest| rest.split('<').next());
    id.unwrap_or_else(|| panic!("no upload: {text}")).to_owned()
}

#[tokio::test]
async fn a_key_that_no_request_has_is_refused() {
    let server = super::server().await;
    for (action, key) in [
        ("s3:PutObject", "s3:x-amz-server-side-encryptoin"),
        ("s3:GetObject", "aws:SorceIp"),
        ("s3:GetObject", "s3:prefix"),
        ("s3:GetObject", "s3:ResourceTag/x"),
    ] {
        let deny = carols("Deny", &format!("\"{action}\""), &format!(r#""StringEquals":{{"{key}":"x"}}"#));
        refused(&try_policy(&server, &deny).await, 400, "MalformedPolicy");
    }
}

/// The tags of a copy are the source's unless it says otherwise, whatever it says of tags.
#[tokio::test]
async fn tags_of_a_copy_are_judged_by_what_it_copies() {
    let server = super::server().await;
    let reads = carols("Allow", r#"["s3:GetObject","s3:GetObjectTagging","s3:PutObjectTagging"]"#, "");
    let writes = carols("Allow", r#"["s3:PutObject"]"#, r#""StringEquals":{"s3:RequestObjectTag/class":"secret"}"#);
    put_policy(&server, &format!("{reads},{writes}")).await;
    let copy = |directive: &'static str| {
        let headers = [
            ("x-amz-copy-source", "/docs/a"),
            ("x-amz-tagging", "class=secret"),
            ("x-amz-tagging-directive", directive),
        ];
        let server = &server;
        async move { server.request("carol", "PUT", "/docs/copy", &headers, b"").await }
    };
    refused(&copy("COPY").await, 403, "AccessDenied");
    assert_eq!(copy("REPLACE").await.status, 200);
}

/// An upload that was opened with a public list is not completed once lists may not be public any more.
#[tokio::test]
async fn a_block_holds_for_uploads_that_are_open() {
    let server = super::server().await;
    let public = [("x-amz-acl", "public-read")];
    let id = upload_id(&server.query("alice", "POST", "/docs/m", "uploads=", &public, b"").await);
    let part = server.query("alice", "PUT", "/docs/m", &format!("partNumber=1&uploadId={id}"), &[], b"part").await;
    let list = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
        part.header("etag").expect("an entity tag")
    );
    let block =
        b"<PublicAccessBlockConfiguration><BlockPublicAcls>true</BlockPublicAcls></PublicAccessBlockConfiguration>";
    assert_eq!(server.query("alice", "PUT", "/docs", "publicAccessBlock=", &[], block).await.status, 200);
    let query = format!("uploadId={id}");
    let complete = || server.query("alice", "POST", "/docs/m", &query, &[], list.as_bytes());
    refused(&complete().await, 403, "AccessDenied");
    assert_eq!(server.query("alice", "DELETE", "/docs", "publicAccessBlock=", &[], b"").await.status, 204);
    assert_eq!(complete().await.status, 200);
}

/// Policies ask those of other accounts for a list that gives the bucket's owner everything, and allow them to put objects only.
#[tokio::test]
async fn a_list_for_the_buckets_owner_needs_no_right_of_its_own() {
    let server = super::server().await;
    let allow =
        r#"{"Effect":"Allow","Principal":{"AWS":"bob"},"Action":"s3:PutObject","Resource":"arn:aws:s3:::docs/*"}"#;
    put_policy(&server, allow).await;
    let put = |headers: &'static [(&'static str, &'static str)]| server.request("bob", "PUT", "/docs/b", headers, b"x");
    for headers in [
        &[("x-amz-acl", "bucket-owner-full-control")],
        &[("x-amz-grant-full-control", "id=alice")],
        &[("x-amz-acl", "private")],
    ] {
        let answer = put(headers).await;
        assert_eq!(answer.status, 200, "{headers:?}: {}", answer.text());
    }
    for headers in [&[("x-amz-acl", "public-read")], &[("x-amz-grant-read", "id=alice,id=bob")]] {
        refused(&put(headers).await, 403, "AccessDenied");
    }
    let deny = allow.replace("Allow", "Deny").replace("s3:PutObject", "s3:PutObjectAcl");
    put_policy(&server, &format!("{allow},{deny}")).await;
    refused(&put(&[("x-amz-acl", "bucket-owner-full-control")]).await, 403, "AccessDenied");
}

/// The same of another account's user, as far as its own account allows it to set lists: in S3's own example it is a user who puts.
#[tokio::test]
async fn a_user_of_another_account_gives_the_buckets_owner_what_its_own_account_allows() {
    let server = super::server().await;
    let dave = |more: &[(&str, &str)]| {
        let of = [("UserName", "dave")].into_iter().chain(more.iter().copied());
        of.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>()
    };
    let key = ("AKdave".to_owned(), Secret::new("secret-of-dave".to_owned()));
    server.metadata.iam_as_operator("bob", "CreateUser", &dave(&[]), None).await.unwrap();
    server.metadata.iam_as_operator("bob", "CreateAccessKey", &dave(&[]), Some(key)).await.unwrap();
    let owns = async |actions: &str| {
        let policy = format!(r#"{{"Statement":{{"Effect":"Allow","Action":{actions},"Resource":"*"}}}}"#);
        let asked = dave(&[("PolicyName", "p"), ("PolicyDocument", &policy)]);
        server.metadata.iam_as_operator("bob", "PutUserPolicy", &asked, None).await.unwrap();
    };
    let condition = r#""StringEquals":{"s3:x-amz-acl":["bucket-owner-full-control","public-read"]}"#;
    let resource = r#""Resource":"arn:aws:s3:::docs/*""#;
    let allow = format!(
        r#"{{"Effect":"Allow","Principal":{{"AWS":"bob"}},"Action":"s3:PutObject",{resource},"Condition":{{{condition}}}}}"#
    );
    put_policy(&server, &allow).await;
    let put = async |list: &'static str| server.request("dave", "PUT", "/docs/d", &[("x-amz-acl", list)], b"x").await;
    owns(r#""s3:PutObject""#).await;
    refused(&put("bucket-owner-full-control").await, 403, "AccessDenied");
    owns(r#"["s3:PutObject","s3:PutObjectAcl"]"#).await;
    assert_eq!(put("bucket-owner-full-control").await.status, 200);
    refused(&put("public-read").await, 403, "AccessDenied");
    refused(&put("private").await, 403, "AccessDenied");
    let deny = allow.replace("Allow", "Deny").replace("s3:PutObject", "s3:PutObjectAcl");
    put_policy(&server, &format!("{allow},{deny}")).await;
    refused(&put("bucket-owner-full-control").await, 403, "AccessDenied");
}

/// To compare what is there is to read it: what the write says for itself fulfils no condition of that.
#[tokio::test]
async fn who_may_write_under_a_condition_may_not_read_under_it() {
    let server = super::server().await;
    put_policy(&server, &carols("Allow", r#""s3:*""#, r#""StringEquals":{"s3:x-amz-acl":"private"}"#)).await;
    let put = async |headers: &[(&str, &str)]| server.request("carol", "PUT", "/docs/a", headers, b"x").await;
    // The entity tag of what is there, which is `hello`.
    for tag in ["\"5d41402abc4b2a76b9719d911017c592\"", "\"00\""] {
        refused(&put(&[("if-match", tag), ("x-amz-acl", "private")]).await, 403, "AccessDenied");
    }
    assert_eq!(put(&[("x-amz-acl", "private")]).await.status, 200);
}
