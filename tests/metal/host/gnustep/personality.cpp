// GCC's Objective-C runtime catches no C++ exceptions in Objective-C++, which Apple's does: what it
// is asked at every frame, C++'s answers instead.

extern "C" int __gxx_personality_v0(int, int, unsigned long long, void*, void*);

extern "C" __attribute__((visibility("hidden"))) int __gnu_objc_personality_v0(
    int version, int actions, unsigned long long kind, void* exception, void* context) {
    return __gxx_personality_v0(version, actions, kind, exception, context);
}
