from tuner.testing import ListenerContract, MethodContract, ModelContract


class TestFocal(MethodContract):
    method = "focal"


class TestLinear(ModelContract):
    model = "linear"


class TestAnnounce(ListenerContract):
    listener = "announce"
