// Package common stands in for the SDK of Tencent Cloud, which Flannel's backend
// of that name needs to compile and no test uses.
package common

// StringPtr is the address of a copy.
func StringPtr(value string) *string { return &value }

// BoolPtr is the address of a copy.
func BoolPtr(value bool) *bool { return &value }

// StringPtrs are the addresses of copies.
func StringPtrs(values []string) []*string {
	var all []*string
	for _, value := range values {
		all = append(all, &value)
	}
	return all
}
