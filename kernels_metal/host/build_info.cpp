// Read by the Python side, through ctypes, for `fusewright doctor`.
extern "C" __attribute__((visibility("default"))) const char* fusewright_build_info() {
    return "version=" FUSEWRIGHT_VERSION "\ncompiler=" __VERSION__
           "\nmetal=" FUSEWRIGHT_METAL_STANDARD;
}
