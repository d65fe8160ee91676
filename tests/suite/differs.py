"""Cases that Stele answers otherwise on purpose, and why."""

DIFFERS = {
    'test_list_buckets_anonymous': 'who is nobody has no buckets to list: 403, as S3 answers',
    'test_object_read_unreadable': 'the key is well-formed UTF-8; there is no object of it: 404',
    'test_object_set_get_unicode_metadata': 'metadata outside of ASCII come back as S3 writes them, by RFC 2047',
    'test_object_write_with_chunked_transfer_encoding': 'an upload says its length: 411, as S3 answers',
    'test_get_object_torrent': 'there are no torrents: 501, whatever the key',
    'test_bucket_policy_tenanted_bucket': 'ARNs of buckets have no account, as in S3',
    'test_bucket_policy_deny_self_denied_policy_confirm_header': 'the root of an account can always mend the policies of its buckets, as in S3',
    'test_put_bucket_logging_errors': 'no requester pays, and a bucket that says so would promise it',
    'test_bucket_logging_owner': 'a policy whose statement has no Resource is no policy: MalformedPolicy, as in S3',
    'test_multipart_get_part': 'a part is read with the entity tag of its object, as in S3: clients hold the parts together by it',
    'test_multipart_single_get_part': 'likewise',
    'test_multipart_sse_c_get_part': 'likewise',
    'test_account_group_update': 'groups are not renamed: their users would have to be rewritten with them',
    'test_sse_kms_multipart_invalid_chunks_1': 'a part that names another key than its upload would not get what it asks for: 400',
    'test_sse_kms_multipart_invalid_chunks_2': 'likewise',
}
