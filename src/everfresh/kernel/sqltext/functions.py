"""The built-in functions whose answer depends on their arguments alone, by dialect.

Functions that depend on session settings which are part of the key (time zone, formats, locale)
count as fixed.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CLOCK_FUNCTIONS", "VOLATILE", "known_functions"]

_AGGREGATES = """
    avg count max min sum
    row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value
    nth_value
"""
_COMMON = """
    abs coalesce nullif round sign lower upper length ltrim rtrim trim replace substr substring
    concat concat_ws octet_length format
    acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10
    mod pi pow power radians sin sinh sqrt tan tanh trunc
    generate_series
"""
_SQLITE = f"""
    {_AGGREGATES} {_COMMON} +
    group_concat string_agg total median percentile percentile_cont percentile_disc
    char glob hex ifnull iif if instr like likelihood likely unlikely printf quote soundex typeof
    unhex unicode unistr unistr_quote zeroblob log2 subtype
    date time datetime julianday unixepoch strftime timediff
    json json_array json_array_length json_error_position json_extract json_insert json_object
    json_patch json_pretty json_remove json_replace json_set json_type json_valid json_quote
    json_group_array json_group_object json_each json_tree
    jsonb jsonb_array jsonb_extract jsonb_insert jsonb_object jsonb_patch jsonb_remove
    jsonb_replace jsonb_set jsonb_group_array jsonb_group_object jsonb_each jsonb_tree
"""
_POSTGRES = f"""
    {_AGGREGATES} {_COMMON}
    array_agg string_agg bool_and bool_or every bit_and bit_or bit_xor any_value
    corr covar_pop covar_samp regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope
    regr_sxx regr_sxy regr_syy stddev stddev_pop stddev_samp variance var_pop var_samp
    mode percentile_cont percentile_disc grouping range_agg range_intersect_agg
    json_agg json_object_agg jsonb_agg jsonb_object_agg json_agg_strict jsonb_agg_strict
    greatest least num_nulls num_nonnulls row
    cbrt div factorial gcd lcm width_bucket min_scale scale trim_scale acosd asind atand atan2d
    cosd cotd cot sind tand erf erfc
    ascii bit_length btrim casefold char_length character_length chr initcap left lpad md5
    normalize overlay parse_ident position quote_ident quote_literal quote_nullable regexp_count
    regexp_instr regexp_like regexp_match regexp_matches regexp_replace regexp_split_to_array
    regexp_split_to_table regexp_substr repeat reverse right rpad split_part starts_with strpos
    string_to_array string_to_table to_ascii to_bin to_hex to_oct translate unistr
    bit_count get_bit get_byte set_bit set_byte sha224 sha256 sha384 sha512 crc32 crc32c
    convert convert_from convert_to encode decode
    to_char to_date to_number to_timestamp
    date_add date_bin date_part date_subtract date_trunc extract isfinite justify_days
    justify_hours justify_interval make_date make_interval make_time make_timestamp
    make_timestamptz timezone
    array_append array_cat array_dims array_fill array_length array_lower array_ndims
    array_position array_positions array_prepend array_remove array_replace array_reverse
    array_sort array_to_string array_upper cardinality trim_array unnest generate_subscripts
    array_to_json row_to_json to_json to_jsonb json_array json_array_elements
    json_array_elements_text json_array_length json_build_array json_build_object json_each
    json_each_text json_extract_path json_extract_path_text json_object json_object_keys
    json_populate_record json_populate_recordset json_strip_nulls json_to_record
    json_to_recordset json_typeof jsonb_array_elements jsonb_array_elements_text
    jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each jsonb_each_text
    jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_keys
    jsonb_path_exists jsonb_path_match jsonb_path_query jsonb_path_query_array
    jsonb_path_query_first jsonb_populate_record jsonb_populate_recordset jsonb_pretty jsonb_set
    jsonb_set_lax jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_typeof
    isempty lower_inc lower_inf upper_inc upper_inf range_merge multirange int4range int8range
    numrange tsrange tstzrange daterange
    abbrev broadcast family host hostmask inet_merge inet_same_family masklen netmask network
    set_masklen
    area center diagonal diameter height isclosed isopen npoints pclose popen radius slope width
    box circle line lseg path point polygon
    ts_rank ts_rank_cd numnode querytree setweight strip tsvector_to_array
    array_to_tsvector ts_delete ts_filter
    enum_first enum_last enum_range
    uuid_extract_timestamp uuid_extract_version
    int2 int4 int8 float4 float8 numeric text varchar bpchar bool
"""
_KNOWN: Final = {
    "sqlite": frozenset(_SQLITE.split()),
    "postgresql": frozenset(_POSTGRES.split()),
}

CLOCK_FUNCTIONS: Final[dict[str, int]] = {
    "date": 1,
    "time": 1,
    "datetime": 1,
    "julianday": 1,
    "unixepoch": 1,
    "strftime": 2,
    "timediff": 2,
}
"""SQLite's date functions, with the arguments they need not to take the current time."""

_CHANGING = """
    now random randomblob clock_timestamp statement_timestamp transaction_timestamp timeofday
    gen_random_uuid uuidv4 uuidv7 uuid_generate_v4 random_normal nextval age
"""
_OF_THE_SESSION = """
    last_insert_rowid changes total_changes currval lastval current_setting pg_backend_pid
    pg_current_xact_id pg_current_xact_id_if_assigned pg_current_snapshot txid_current
    txid_current_snapshot txid_current_if_assigned pg_current_wal_insert_lsn pg_current_wal_lsn
    pg_current_wal_flush_lsn pg_last_wal_replay_lsn pg_last_wal_receive_lsn pg_is_in_recovery
    sqlite_version version
"""
_WRITING = "setval set_config pg_notify"
VOLATILE: Final[dict[str, str]] = {
    **dict.fromkeys(_CHANGING.split(), "gives another answer each time"),
    **dict.fromkeys(_OF_THE_SESSION.split(), "depends on the session"),
    **dict.fromkeys(_WRITING.split(), "changes the session or the database"),
    "pg_sleep": "is called to wait",
    "load_extension": "loads code",
}
"""Functions that are refused with a reason of their own."""


def known_functions(dialect: str) -> frozenset[str]:
    """Return the names of the functions that may be in a kept statement.

    >>> "avg" in known_functions("sqlite"), "random" in known_functions("sqlite")
    (True, False)
    """
    return _KNOWN.get(dialect, frozenset())
