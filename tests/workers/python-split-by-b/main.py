"""A Worker of the kind the platform publishes: split by `b`, one address per subtask, older SDK generation."""

from urllib.parse import parse_qsl, urlsplit

from sdk import CafeSDK


def run():
    headers = [
        {"label": "URL", "key": "url", "format": "text"},
        {"label": "Host", "key": "host", "format": "text"},
        {"label": "Path", "key": "path", "format": "text"},
        {"label": "Query", "key": "query", "format": "object"},
        {"label": "Secure", "key": "secure", "format": "boolean"},
    ]
    try:
        input_dict = CafeSDK.Parameter.get_input_json_dict()
        CafeSDK.Log.debug(f"params: {input_dict}")
        url = input_dict["url"]
        parts = urlsplit(url)
        if not parts.hostname:
            raise ValueError(f"{url} has no host")
        CafeSDK.Result.push_data(
            {
                "url": url,
                "host": parts.hostname,
                "path": parts.path,
                "query": dict(parse_qsl(parts.query)),
                "secure": parts.scheme == "https",
            }
        )
        CafeSDK.Result.set_table_header(headers)
        CafeSDK.Log.info(f"{url} done")
    except Exception as e:
        CafeSDK.Log.error(f"failed: {e}")
        CafeSDK.Result.set_table_header(
            [
                {"label": "Error", "key": "error", "format": "text"},
                {"label": "Error Code", "key": "error_code", "format": "text"},
                {"label": "Status", "key": "status", "format": "text"},
            ]
        )
        CafeSDK.Result.push_data({"error": str(e), "error_code": "500", "status": "failed"})
        raise


if __name__ == "__main__":
    run()
