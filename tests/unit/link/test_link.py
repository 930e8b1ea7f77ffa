async def test_smoke(server, plane):
    pass
