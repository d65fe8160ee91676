"""Roles, what they may do once assumed, and what one account lets another do."""

from cases.iam import *


@case('iam')
def test_account_role_create():
    path, name = new_path(), named('R1')
    trust = trusts('*')
    more = dict(Description='my role description', MaxSessionDuration=43200)
    r = root().create_role(RoleName=name, Path=path, AssumeRolePolicyDocument=trust, **more)['Role']
    eq((r['Path'], r['RoleName'], r['Arn'].endswith(f':role{path}{name}')), (path, name, True))
    eq(json.dumps(r['AssumeRolePolicyDocument']), trust)
    got = root().get_role(RoleName=name)['Role']
    eq({k: got[k] for k in ('Arn', *more)}, {'Arn': r['Arn'], **more})
    taken(root().create_role, RoleName=name, Path=path + 'foo/', AssumeRolePolicyDocument=trust)


@case('iam')
def test_account_role_case_insensitive_name():
    upper = named('Role')
    make_role(upper, new_path())
    taken(root().create_role, RoleName=upper.lower(), AssumeRolePolicyDocument=trusts('*'))
    eq(root().get_role(RoleName=upper.lower())['Role']['RoleName'], upper)
    root().delete_role(RoleName=upper.lower())
    missing(root().get_role, RoleName=upper)


@case('iam')
def test_account_role_delete():
    name = named('R')
    missing(root().delete_role, RoleName=name)
    ids = []
    for _ in range(2):
        ids.append(root().create_role(RoleName=name, AssumeRolePolicyDocument=trusts('*'))['Role']['RoleId'])
        root().delete_role(RoleName=name)
    eq(ids[0] != ids[1], True)


@case('iam')
def test_account_role_update():
    name = named('R')
    missing(root().update_role, RoleName=name)
    make_role(name, new_path())
    before = root().get_role(RoleName=name)['Role']
    root().update_role(RoleName=name, Description='my role description', MaxSessionDuration=43200)
    after = root().get_role(RoleName=name)['Role']
    eq([after[k] for k in ('Arn', 'RoleId')], [before[k] for k in ('Arn', 'RoleId')])
    eq((after['Description'], after['MaxSessionDuration']), ('my role description', 43200))


@case('iam')
def test_account_role_list_permission():
    name, _, key = user()
    iam = client('iam', key)
    denied(iam.list_roles, PathPrefix=new_path())
    root().attach_user_policy(UserName=name, PolicyArn=IAM_READ)
    iam.list_roles(PathPrefix=new_path())


def role_for(who, path=None):
    name = named('MyRole')
    made = root().create_role(RoleName=name, Path=path or new_path(), AssumeRolePolicyDocument=trusts(who))
    return name, made['Role']['Arn']


def give(role, action):
    root().put_role_policy(RoleName=role, PolicyName='Allowed', PolicyDocument=document(may(action)))


@case('iam')
def test_account_role_policy_allow():
    _, who, key = user()
    role, role_arn = role_for(who)
    s3 = client('s3', assumed(role_arn, key))
    denied(s3.list_buckets)
    give(role, 's3:ListAllMyBuckets')
    s3.list_buckets()


def by_other_account():
    """A user of the other account, and a role here that it may assume: role, credentials. As in IAM its own account has a say, too."""
    name, who, key = user(other())
    role, role_arn = role_for(who)
    denied(assumed, role_arn, key)
    other().put_user_policy(UserName=name, PolicyName='Assume', PolicyDocument=document(may('sts:AssumeRole', role_arn)))
    return role, assumed(role_arn, key)


@case('iam')
def test_same_account_role_policy_allow():
    b = bucket(root('s3'))
    role, creds = by_other_account()
    s3 = client('s3', creds)
    denied(s3.list_objects, Bucket=b)
    give(role, 's3:ListBucket')
    s3.list_objects(Bucket=b)


@case('iam')
def test_cross_account_role_policy_allow():
    b = bucket(other('s3'))
    role, creds = by_other_account()
    s3 = client('s3', creds)
    denied(s3.list_objects, Bucket=b)
    give(role, 's3:ListBucket')
    denied(s3.list_objects, Bucket=b)
    here = root().get_user()['User']['Arn']
    other('s3').put_bucket_policy(Bucket=b, Policy=policy(b, allow('s3:ListBucket', arn(b), here)))
    s3.list_objects(Bucket=b)


@case('iam')
def test_account_role_policy_allow_create_bucket():
    role, creds = by_other_account()
    s3, b = client('s3', creds), new_name()
    kw = dict(Bucket=b, ObjectOwnership='ObjectWriter', ACL='private')
    denied(s3.create_bucket, **kw)
    give(role, ['s3:CreateBucket', 's3:PutBucketAcl', 's3:PutBucketOwnershipControls'])
    s3.create_bucket(**kw)
    acl = root('s3').get_bucket_acl(Bucket=b)
    owner = root().get_user()['User']['Arn'].split(':')[4]
    eq((acl['Owner']['ID'], acl['Grants'][0]['Grantee']['ID']), (owner, owner))


@case('iam')
def test_account_role_policy_allow_get_role():
    role, creds = by_other_account()
    iam = client('iam', creds)
    denied(iam.get_role, RoleName=role)
    give(role, 'iam:GetRole')
    iam.get_role(RoleName=role)


@case('iam')
def test_cross_account_role_assume_cannot_change_acl_owner():
    b = bucket(root('s3'))
    role, creds = by_other_account()
    s3 = client('s3', creds)
    give(role, ['s3:PutBucketAcl', 's3:GetBucketAcl'])
    alt_id = user_id('iam alt root')
    acl = {
        'Owner': {'ID': alt_id},
        'Grants': [{'Grantee': {'Type': 'CanonicalUser', 'ID': alt_id}, 'Permission': 'FULL_CONTROL'}],
    }
    denied(s3.put_bucket_acl, Bucket=b, AccessControlPolicy=acl)
    acl['Owner']['ID'] = user_id('iam root')
    s3.put_bucket_acl(Bucket=b, AccessControlPolicy=acl)


# A user of another account needs a policy of its own account and a yes of the bucket's: in either order.


def cross_account(name, of_bucket):
    def give_bucket(b, who):
        of_bucket(b, who)

    def give_user(_, who):
        other().put_user_policy(UserName=who[0], PolicyName='AllowStar', PolicyDocument=document(may('s3:*')))

    def run(first, second):
        who = user(other())
        s3, b = client('s3', who[2]), bucket(root('s3'))
        first(b, who)
        denied(s3.list_objects, Bucket=b)
        second(b, who)
        s3.list_objects(Bucket=b)

    kind, grant = name
    case('iam', f'test_cross_account_bucket_{kind}user_policy_{grant}')(lambda: run(give_bucket, give_user))
    case('iam', f'test_cross_account_user_{"bucket_policy" if not kind else "policy_bucket_acl"}_{grant}')(
        lambda: run(give_user, give_bucket)
    )


def lists(b, principal):
    root('s3').put_bucket_policy(Bucket=b, Policy=policy(b, allow('s3:ListBucket', arn(b), principal)))


def reads(b, grantee):
    root('s3').put_bucket_acl(Bucket=b, GrantRead=grantee)


def account_of(who):
    return who[1].split(':')[4]


PRINCIPALS = {
    'allow_user_arn': lambda who: who[1],
    'allow_account_arn': lambda who: f'arn:aws:iam::{account_of(who)}:root',
    'allow_account_id': account_of,
}
GRANTEES = {
    'grant_canonical_id': lambda: 'id=' + user_id('iam alt root'),
    'grant_account_email': lambda: 'emailAddress=' + ENV['accounts']['iam alt root']['email'],
}
for grant, principal in PRINCIPALS.items():
    cross_account(('', grant), lambda b, who, principal=principal: lists(b, principal(who)))
for grant, grantee in GRANTEES.items():
    cross_account(('acl_', grant), lambda b, who, grantee=grantee: reads(b, grantee()))


def cross_root(name, give_bucket):
    @case('iam', f'test_cross_account_root_bucket_{name}')
    def run():
        b = bucket(root('s3'))
        denied(other('s3').list_objects, Bucket=b)
        give_bucket(b)
        other('s3').list_objects(Bucket=b)


cross_root('policy_allow_account_arn', lambda b: lists(b, other().get_user()['User']['Arn']))
cross_root('policy_allow_account_id', lambda b: lists(b, user_id('iam alt root')))
cross_root('acl_grant_canonical_id', lambda b: reads(b, GRANTEES['grant_canonical_id']()))
cross_root('acl_grant_account_email', lambda b: reads(b, GRANTEES['grant_account_email']()))

SUMMED = ('Users', 'Groups', 'UsersQuota', 'GroupsQuota', 'AccessKeysPerUserQuota')


def summary(iam):
    eq([k for k in SUMMED if k not in iam.get_account_summary()['SummaryMap']], [])


case('iam', 'test_get_account_summary_root')(lambda: summary(root()))


@case('iam')
def test_get_account_summary_policy():
    name, _, key = user()
    denied(client('iam', key).get_account_summary)
    root().put_user_policy(
        UserName=name, PolicyName='Summary', PolicyDocument=document(may('iam:GetAccountSummary'))
    )
    summary(client('iam', key))
