"""Conditional writes and deletes."""

from kit import *


def put_if(what, first, kw, status, code=None):
    @case('conditional writes', f'test_put_object_{what}')
    def run():
        b = bucket()
        e = None
        if first:
            e = main().put_object(Bucket=b, Key='foo', Body=b'bar')['ETag']
        args = {k: (e if v == 'ETAG' else v) for k, v in kw.items()}
        if status == 200:
            main().put_object(Bucket=b, Key='foo', Body=b'zar', **args)
            eq(read(main(), b, 'foo'), b'zar')
        else:
            refused(status, code, main().put_object, Bucket=b, Key='foo', Body=b'zar', **args)
            if first:
                eq(read(main(), b, 'foo'), b'bar')
            else:
                refused(404, 'NoSuchKey', main().get_object, Bucket=b, Key='foo')


put_if('ifmatch_good', True, {'IfMatch': 'ETAG'}, 200)
put_if('ifmatch_failed', True, {'IfMatch': '"ABCORZ"'}, 412, 'PreconditionFailed')
put_if('ifmatch_overwrite_existed_good', True, {'IfMatch': '*'}, 200)
put_if('ifmatch_nonexisted_failed', False, {'IfMatch': '*'}, 404, 'NoSuchKey')
put_if('ifnonmatch_good', True, {'IfNoneMatch': 'ABCORZ'}, 200)
put_if('ifnonmatch_failed', True, {'IfNoneMatch': 'ETAG'}, 412, 'PreconditionFailed')
put_if('ifnonmatch_nonexisted_good', False, {'IfNoneMatch': '*'}, 200)
put_if('ifnonmatch_overwrite_existed_failed', True, {'IfNoneMatch': '*'}, 412, 'PreconditionFailed')


def delete_if(what, good, bad, versioned=False, by_version=False, many=False):
    name = (
        f'test_delete_object{"s" if many else ""}_{"version_" if by_version else "current_" if versioned else ""}{what}'
    )

    @case('conditional writes', name)
    def run():
        b = bucket()
        c = main()
        if versioned or by_version:
            c.put_bucket_versioning(Bucket=b, VersioningConfiguration={'Status': 'Enabled'})
        r = c.put_object(Bucket=b, Key='o', Body=b'')
        h = c.head_object(Bucket=b, Key='o')
        facts = {'etag': r['ETag'], 'mtime': h['LastModified'], 'size': 0}
        which = {'VersionId': r['VersionId']} if by_version else {}

        def go(args):
            args = {k: facts.get(v, v) if isinstance(v, str) else v for k, v in args.items()}
            if not many:
                return c.delete_object(Bucket=b, Key='o', **which, **args)
            names = {'IfMatch': 'ETag', 'IfMatchLastModifiedTime': 'LastModifiedTime', 'IfMatchSize': 'Size'}
            got = c.delete_objects(
                Bucket=b, Delete={'Objects': [{'Key': 'o', **which, **{names[k]: v for k, v in args.items()}}]}
            )
            if got.get('Errors'):
                raise ClientError(
                    {'Error': got['Errors'][0], 'ResponseMetadata': {'HTTPStatusCode': 412}}, 'DeleteObjects'
                )
            return got

        refused(412, 'PreconditionFailed', go, bad)
        go(good)
        if versioned:
            refused(412, 'PreconditionFailed', go, bad)
        else:
            go(bad)


for many in (False, True):
    for v, bv in ((False, False), (True, False), (False, True)):
        delete_if('if_match', {'IfMatch': 'etag'}, {'IfMatch': 'badetag'}, v, bv, many)
        delete_if(
            'if_match_last_modified_time',
            {'IfMatchLastModifiedTime': 'mtime'},
            {'IfMatchLastModifiedTime': datetime.datetime(2015, 1, 1)},
            v,
            bv,
            many,
        )
        delete_if('if_match_size', {'IfMatchSize': 'size'}, {'IfMatchSize': 9999}, v, bv, many)


def write_if(name, make, write):
    """A write with conditions on what the key holds: absent, present, deleted."""

    @case('conditional writes', name)
    def run():
        b = make()
        first = write(b, IfNoneMatch='*')
        for condition in ('*', first):
            refused(412, 'PreconditionFailed', write, b, IfNoneMatch=condition)
        refused(412, 'PreconditionFailed', write, b, IfMatch='badetag')
        write(b, IfNoneMatch='badetag')
        write(b, IfMatch=main().head_object(Bucket=b, Key='obj')['ETag'])
        main().delete_object(Bucket=b, Key='obj')
        for condition in ('*', 'badetag'):
            refused(404, 'NoSuchKey', write, b, IfMatch=condition)
        write(b, IfNoneMatch=first)


def write_whole(b, **kw):
    return main().put_object(Bucket=b, Key='obj', Body=b'', **kw)['ETag']


def write_parts(b, **kw):
    up, listed, _ = parts_upload(main(), b, 'obj', [3])
    try:
        return complete(main(), b, 'obj', up, listed, **kw)['ETag']
    except ClientError:
        main().abort_multipart_upload(Bucket=b, Key='obj', UploadId=up)
        raise


write_if('test_put_object_if_match', bucket, write_whole)
write_if('test_put_object_current_if_match', versioned, write_whole)
write_if('test_multipart_put_current_object_if_match', versioned, write_parts)


@case('conditional writes')
def test_put_current_object_if_match():
    b = versioned()
    for condition in ('*', 'badetag'):
        refused(404, 'NoSuchKey', write_whole, b, IfMatch=condition)
    put = lambda body, **kw: main().put_object(Bucket=b, Key='obj', Body=body, **kw)
    older = put(b'data1', IfNoneMatch='deadbeef')['ETag']
    newer = put(b'data2', IfMatch='*')['ETag']
    for etag in ('badetag', older):
        refused(412, 'PreconditionFailed', put, b'data3', IfMatch=etag)
    put(b'data3', IfMatch=newer)


@case('conditional writes')
def test_put_current_object_if_none_match():
    b = versioned()
    put = lambda body, **kw: main().put_object(Bucket=b, Key='obj', Body=body, **kw)
    older = put(b'data1', IfNoneMatch='*')['ETag']
    newer = put(b'data2')['ETag']
    for condition in ('*', newer):
        refused(412, 'PreconditionFailed', put, b'data3', IfNoneMatch=condition)
    put(b'data3', IfNoneMatch=older)
    put(b'data4', IfNoneMatch='badetag')


@case('conditional writes')
def test_atomic_conditional_write_1mb():
    b = bucket()
    etag = main().put_object(Bucket=b, Key='obj', Body=b'A' * MIB)['ETag']
    main().put_object(Bucket=b, Key='obj', Body=b'B' * MIB, IfMatch=etag)
    eq(set(read(main(), b, 'obj')), {66})


@case('conditional writes')
def test_atomic_dual_conditional_write_1mb():
    b = bucket()
    etag = main().put_object(Bucket=b, Key='obj', Body=b'A' * MIB)['ETag']
    done = []

    def put(letter):
        try:
            fresh().put_object(Bucket=b, Key='obj', Body=letter * MIB, IfMatch=etag)
            done.append(letter)
        except ClientError as e:
            eq(e.response['ResponseMetadata']['HTTPStatusCode'] in (409, 412), True)

    both = [threading.Thread(target=put, args=(letter,)) for letter in (b'B', b'C')]
    [t.start() for t in both]
    [t.join() for t in both]
    eq(len(done), 1)
    eq(read(main(), b, 'obj') == done[0] * MIB, True)
